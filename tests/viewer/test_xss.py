"""Texts that attack the page: everywhere they are text. No page gets an element, an attribute or an address from them."""

import html
from collections import Counter, deque
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from small_run import CORRECTION_ID, QUERY_ID
from starlette.testclient import TestClient

from tapo_core.viewer import urls
from tapo_core.viewer.app import create_app
from tapo_core.viewer.report import write_report
from tests.viewer.conftest import ADDRESS
from tests.viewer.dom import Element, parse
from tests.viewer.traced_run import Texts, build_traced_run

ATTACK = " ".join(
    (
        "<script>window.attacked = 1</script>",
        '"onmouseover="window.attacked = 2" \'x',
        "</textarea></title></style> <!-- --> ]]> &lt;b&gt;",
        "{{1009*991}} {% raw %}",
        "<img src=x onerror=window.attacked=3>",
        "javascript:alert(1) <a href=javascript:alert(1)>x</a>",
        "\N{RIGHT-TO-LEFT OVERRIDE}desrever\N{POP DIRECTIONAL FORMATTING}",
    )
)
#: As a folder's name, which has no slashes.
RUN = '"onmouseover="a <img src=x onerror=window.attacked=4> {{1009*991}} \''
_MOST_PAGES = 3  #: of a kind


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that are the same but for what is written in them."""
    folder = tmp_path_factory.mktemp("runs")
    build_traced_run(folder / RUN, ATTACK)
    build_traced_run(folder / "kind", "words")
    return folder


@pytest.fixture(scope="module")
def viewer(attacked: Path) -> TestClient:
    return TestClient(create_app([attacked]), base_url=ADDRESS)


def kinds(page: Element) -> set[tuple[str, ...]]:
    """Each kind of element that a page has, with the names of its attributes."""
    return {(element.tag, *sorted(element.attributes)) for element in page.all()}


def check_harmless(page: Element) -> None:
    for element in page.all():
        assert not [name for name in element.attributes if name.startswith("on") or name == "style"], element.attributes
        for name in ("href", "src", "action", "formaction", "data", "xlink:href"):
            address = element.attributes.get(name)
            assert address is None or address.startswith(("/", "#", "?", "data:image/")), (element.tag, address)
        assert element.tag not in ("iframe", "object", "embed", "base", "math", "foreignobject", "img")
    assert "999919" not in page.text  # {{1009*991}}, had a template seen it


def crawl(viewer: TestClient, run: str) -> dict[str, Element]:
    """Some pages of each kind that links of a run lead to, by address, the nearest first."""
    pages: dict[str, Element] = {}
    waiting = deque([urls.run_url(run)])
    asked: Counter[tuple[str, ...]] = Counter()
    while waiting:
        address = waiting.popleft()
        kind = tuple(urlsplit(address).path.removeprefix(urls.run_url(run)).split("/")[1::2])
        if address in pages or asked[kind] == _MOST_PAGES:
            continue
        asked[kind] += 1
        answer = viewer.get(address)
        if "text/html" not in answer.headers["content-type"]:
            continue
        assert answer.status_code == 200, (address, answer.text)
        pages[address] = parse(answer.text)
        for link in pages[address].all("a"):
            parts = urlsplit(link.attributes["href"] or "")
            if parts.path.startswith(urls.run_url(run)):
                waiting.append(parts._replace(fragment="").geturl())
    return pages


def test_every_page_shows_the_attack_as_text(viewer: TestClient) -> None:
    pages, kind_pages = crawl(viewer, RUN), crawl(viewer, "kind")
    assert len(pages) == len(kind_pages) > 12
    here, there = urls.run_url(RUN), urls.run_url("kind")
    for address, page in pages.items():
        check_harmless(page)
        twin = kind_pages[address.replace(here, there)]
        # (Not the other way round: a text that ends in a link's place may be longer or shorter.)
        assert kinds(page) <= kinds(twin) | {("details",), ("summary",)}, address
    shown = {address: page.text for address, page in pages.items()}
    texts = Texts(ATTACK)
    assert texts.query in shown[urls.group_url(RUN, 1, QUERY_ID)]
    made = parse(viewer.get(urls.trajectory_url(RUN, CORRECTION_ID)).text)
    assert [box.text for box in made.all("div", class_="trajectory")] == [texts.construction.text]
    assert ATTACK in made.text
    assert any(
        "<script>window.attacked = 1</script>" in text for address, text in shown.items() if "/lineage/" in address
    )


@pytest.mark.parametrize(
    "address",
    [
        f"/run/{quote(ATTACK)}",
        f"/run/kind/trajectory/{quote(ATTACK)}",
        f"/run/kind/lineage/{quote(ATTACK)}",
        f"/run/kind/iteration/{quote(ATTACK)}",
        f"/run/kind/iteration/1/query/{quote(ATTACK)}",
        f"/run/kind/search?q={quote(ATTACK)}",
        f"/run/kind/search?verdict={quote(ATTACK)}",
        f"/run/kind/sql?q={quote(ATTACK)}",
        f"/run/kind/sql?q={quote('SELECT ' + repr(ATTACK.replace(chr(39), '')) + ' AS ' + chr(34) + '<b>' + chr(34))}",
        f"/compare?a={quote(ATTACK)}&b=kind:1",
        f"/{quote(ATTACK)}",
        "/?" + quote(ATTACK),
    ],
)
def test_what_is_asked_for_is_text_too(viewer: TestClient, address: str) -> None:
    answer = viewer.get(address)
    assert answer.status_code < 500
    page = parse(answer.text)
    check_harmless(page)
    assert "<script>window" not in answer.text
    assert all(element.attributes.get("src", "").startswith("/static/") for element in page.all("script"))


def test_the_report_shows_the_attack_as_text(attacked: Path, tmp_path: Path) -> None:
    pages = []
    for run in (RUN, "kind"):
        written = write_report(attacked / run, tmp_path / f"{len(pages)}.html")
        text = written.file.read_text(encoding="utf-8")
        assert "http://" not in text.replace("http-equiv", "")
        assert "https://" not in text
        pages.append(parse(text))
        check_harmless(pages[-1])
        assert (written.n_trajectories, written.n_there) == (1, 1)
    assert kinds(pages[0]) == kinds(pages[1])
    scripts = [element.text for element in pages[0].all("script")]
    assert scripts == [element.text for element in pages[1].all("script")]
    assert not [script for script in scripts if "attacked" in script]
    assert Texts(ATTACK).construction.text in [box.text for box in pages[0].all("div", class_="trajectory")]
    (policy,) = pages[0].all("meta", http_equiv="Content-Security-Policy")
    assert "unsafe" not in (policy.attributes["content"] or "")
    assert "default-src 'none'" in (policy.attributes["content"] or "")


def test_characters_that_cannot_be_seen_are_told_of(viewer: TestClient) -> None:
    answer = viewer.get(urls.trajectory_url(RUN, CORRECTION_ID))
    assert "characters that cannot be seen: U+202C (3), U+202E (3)" in html.unescape(answer.text)
