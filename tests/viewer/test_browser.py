"""The viewer in a browser, as a person uses it: every page, dark and light, by mouse, by keyboard, and without JavaScript."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import uvicorn
from playwright.sync_api import Browser, ConsoleMessage, Page, expect
from small_run import CORRECTION_ID, QUERY_ID, ROLLOUTS

from tapo_core.viewer import urls
from tapo_core.viewer.app import create_app
from tapo_core.viewer.report import write_report
from tests.browser import chromium, kept_inside, needs_browser, picture
from tests.viewer.test_xss import ATTACK, RUN
from tests.viewer.traced_run import Texts, build_traced_run

CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")
Scheme = Literal["light", "dark"]
pytestmark = [pytest.mark.timeout(900), needs_browser]


@dataclass(frozen=True)
class Viewed:
    """A viewer that is served, and its folders."""

    address: str
    folder: Path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def viewed(runs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewed]:
    folder = tmp_path_factory.mktemp("traced")
    build_traced_run(folder / "traced")
    build_traced_run(folder / RUN, ATTACK)
    config = uvicorn.Config(create_app([runs_folder, folder]), host=urls.HOST, port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Viewed(f"http://{urls.HOST}:{port}", folder)
    server.should_exit = True
    thread.join()


@pytest.fixture
def open_page(browser: Browser, viewed: Viewed) -> Iterator[Callable[..., Page]]:
    """Opens pages in which nothing may go wrong: no error, nothing that the policy refuses, nothing asked for elsewhere."""
    wrong: list[str] = []

    def told(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            wrong.append(f"{message.text} {message.location}")

    closing: list[Callable[[], object]] = []

    def opened(path: str, scheme: Scheme = "light", **options: Any) -> Page:
        context = browser.new_context(color_scheme=scheme, service_workers="block", **options)
        inside = kept_inside(context)
        page = inside.__enter__()
        closing.extend((context.close, lambda: inside.__exit__(None, None, None)))
        page.on("console", told)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}"))
        page.goto(path if ":" in path.split("/")[0] else viewed.address + path)
        return page

    yield opened
    for close in closing:
        close()
    assert wrong == []


#: Every page, and words that are seen on it.
PAGES = {
    "runs": (urls.runs_url(), "traced"),
    "run": (urls.run_url("drawn"), "Accuracy of the training rollouts"),
    "config": (urls.config_url("traced"), "Configuration"),
    "iteration": (urls.iteration_url("traced", 1), "Start with 7. Add 12."),
    "group": (urls.group_url("traced", 1, QUERY_ID), "7 + 12 = 18"),
    "construction": (urls.trajectory_url("traced", CORRECTION_ID), "Wait, 7 + 12 is not 18."),
    "rollout": (urls.trajectory_url("traced", ROLLOUTS[2]), "7 + 12 = 18"),
    "lineage": (urls.lineage_url("traced", CORRECTION_ID), "It came from"),
    "search": (urls.search_url("traced", q="Answer"), "Answer"),
    "sql": (urls.sql_url("traced", "SELECT outcome, count(*) AS n FROM verdict GROUP BY outcome"), "correct"),
    "compare": (urls.compare_url("small:2", "small:3", "train"), "small:2"),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_every_page(open_page: Callable[..., Page], name: str, scheme: Scheme) -> None:
    path, words = PAGES[name]
    page = open_page(path, scheme)
    expect(page.locator("main")).to_contain_text(words)
    picture(page, f"viewer-{name}-{scheme}", height=1100)
    check_contrast(page)
    expect(page.locator("h1")).to_have_count(1)
    # Nothing is wider than the page, but what scrolls by itself.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def check_contrast(page: Page) -> None:
    found = page.evaluate(CONTRAST)
    assert found["checked"] > 10
    assert found["low"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_trajectory_in_colour(open_page: Callable[..., Page], scheme: Scheme) -> None:
    page = open_page(PAGES["construction"][0], scheme)
    texts, made = Texts(), page.locator(".trajectory")
    parts = {name: made.locator(f'[data-part="{name}"]') for name in ("wrong prefix", "diagnosis", "correction")}
    assert "".join(part.evaluate("one => one.textContent") for part in parts.values()) == texts.construction.text
    looks = [
        part.evaluate("one => [getComputedStyle(one).backgroundColor, getComputedStyle(one).textDecorationStyle]")
        for part in parts.values()
    ]
    assert len({colour for colour, _ in looks}) == len({line for _, line in looks}) == 3
    labels = [
        part.locator(".label").evaluate("one => getComputedStyle(one, '::before').content") for part in parts.values()
    ]
    assert labels == ['"wrong prefix"', '"diagnosis"', '"correction"']
    token = made.locator(".tok").nth(5)
    assert f"OTS weight {texts.weights[5]:.4g}" in (token.get_attribute("title") or "")

    page.get_by_label("Shade each token by its OTS weight").check()
    shades = made.locator(".tok").evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    assert len(set(shades)) > 3
    check_contrast(page)
    picture(page, f"viewer-shades-{scheme}")
    page.get_by_text("Tokens as a table").click()
    expect(page.locator("details.tokens tbody tr")).to_have_count(len(texts.tokens))
    check_contrast(page)


def test_keys(open_page: Callable[..., Page]) -> None:
    page = open_page(urls.trajectory_url("traced", ROLLOUTS[1]))

    def at(path: str) -> None:
        expect(page).to_have_url(re.compile(re.escape(path) + r"(\?|$)"))
        page.wait_for_load_state()  # the script among it

    for key, place in (("j", 2), ("k", 1), ("ArrowRight", 2), ("ArrowRight", 3), ("j", 3), ("ArrowLeft", 2)):
        page.keyboard.press(key)
        at(urls.trajectory_url("traced", ROLLOUTS[place]))
    page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Keys of this page")
    expect(keys).to_contain_text("next")
    expect(keys).to_contain_text("lineage")
    check_contrast(page)
    picture(page, "viewer-keys")
    page.keyboard.press("j")  # nothing happens behind the list
    page.keyboard.press("Escape")
    expect(keys).to_have_count(0)
    at(urls.trajectory_url("traced", ROLLOUTS[2]))
    page.keyboard.press("l")
    at(urls.lineage_url("traced", ROLLOUTS[2]))
    page.go_back()
    page.keyboard.press("g")
    at(urls.group_url("traced", 1, QUERY_ID))
    page.keyboard.press("/")
    at(urls.search_url("traced"))
    box = page.locator("input[name=q]")
    box.focus()
    page.keyboard.type("j/?lg")
    expect(box).to_have_value("j/?lg")
    at(urls.search_url("traced"))


def test_a_key_at_the_moment_the_list_closes(open_page: Callable[..., Page]) -> None:
    page = open_page(urls.trajectory_url("traced", ROLLOUTS[1]))
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys of this page")).to_be_visible()
    page.evaluate("""() => {
        document.querySelector("dialog").close();  // its event "close" comes later
        document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "l", bubbles: true}));
    }""")
    expect(page).to_have_url(re.compile(re.escape(urls.lineage_url("traced", ROLLOUTS[1]))))


def test_lineage_by_clicks(open_page: Callable[..., Page]) -> None:
    page = open_page(PAGES["lineage"][0])
    graph = page.locator(".lineage svg")
    expect(graph.locator("a.start")).to_have_attribute("href", urls.lineage_url("traced", CORRECTION_ID))
    for k in (0, 2):
        expect(graph.locator(f'a[href="{urls.lineage_url("traced", ROLLOUTS[k])}"]')).to_have_count(1)
    graph.locator(f'a[href="{urls.lineage_url("traced", ROLLOUTS[2])}"]').click()
    expect(page.locator("h1")).to_contain_text(ROLLOUTS[2][:8])
    page.get_by_role("link", name="Its text, verdict and weights").click()
    expect(page.locator(".trajectory")).to_contain_text("7 + 12 = 18")


def test_the_chosen_theme_stays(open_page: Callable[..., Page]) -> None:
    page = open_page(PAGES["runs"][0], "light")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Dark").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.goto(page.url + "compare")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_without_javascript(open_page: Callable[..., Page]) -> None:
    page = open_page(urls.trajectory_url("traced", ROLLOUTS[1]), java_script_enabled=False)
    page.get_by_role("link", name="next").click()
    expect(page.locator("h1")).to_contain_text(ROLLOUTS[2][:8])
    page.get_by_role("link", name="lineage").click()
    expect(page.locator(".lineage a").first).to_be_visible()
    expect(page.get_by_role("button", name="Dark")).to_have_count(0)


def test_no_attack_runs(open_page: Callable[..., Page]) -> None:
    page = open_page(urls.trajectory_url(RUN, CORRECTION_ID))
    assert page.locator(".trajectory").evaluate("one => one.textContent") == Texts(ATTACK).construction.text
    paths = [
        urls.run_url(RUN),
        urls.iteration_url(RUN, 1),
        urls.group_url(RUN, 1, QUERY_ID),
        urls.lineage_url(RUN, QUERY_ID),
    ]
    paths += [
        urls.search_url(RUN, q="<script>"),
        urls.sql_url(RUN, "SELECT text FROM rollout"),
        "/run/<script>window.attacked=5</script>",
    ]
    picture(page, "viewer-attack", height=1100)
    for path in (None, *paths):
        if path is not None and "<" not in path:
            page.goto("/".join(page.url.split("/")[:3]) + path)
        page.locator("*").first.wait_for(state="attached")
        for element in page.locator("main a, main .part").all()[:20]:
            if element.is_visible():
                element.hover()
        assert page.evaluate("window.attacked") is None
        assert page.locator("main img, main script, main iframe").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_a_page_by_itself(
    open_page: Callable[..., Page], viewed: Viewed, tmp_path: Path, scheme: Scheme
) -> None:
    written = write_report(viewed.folder / RUN, tmp_path / "report.html")
    page = open_page(written.file.as_uri(), scheme)
    expect(page.locator("h1")).to_contain_text("Run")
    check_contrast(page)
    assert page.evaluate("window.attacked") is None
    picture(page, f"viewer-report-{scheme}", height=1500)
    page.get_by_role("link", name="Trajectories", exact=True).click()
    page.get_by_role("link", name=re.compile("iteration 1, ")).click()
    article = page.locator(f'[id="trajectory-{CORRECTION_ID}"]')
    expect(article).to_be_in_viewport()
    assert article.locator(".trajectory").evaluate("one => one.textContent") == Texts(ATTACK).construction.text
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
