"""The page of a trajectory: its colours and weights are those of the store, character by character and token by token."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from small_run import CORRECTION_ID, EVALUATION_ROLLOUT, QUERY_ID, ROLLOUTS, VERSIONS, build_small_run, make_correction
from starlette.testclient import TestClient

from tapo_core.config import CorrectionConfig
from tapo_core.correction import parse_construction
from tapo_core.records import Correction, FinishReason, ParseOutcome, Query, Rollout
from tapo_core.store import load
from tapo_core.viewer import urls
from tapo_core.viewer.app import create_app
from tapo_core.viewer.spans import Part, construction_spans, token_texts
from tests.viewer.conftest import ADDRESS
from tests.viewer.dom import Element, parse
from tests.viewer.traced_run import MODEL, Texts, build_traced_run, decode, encode, tokenizer

MARK = "naïve 🙂 ∑ <b>&amp;"


@pytest.fixture(scope="module")
def texts() -> Texts:
    return Texts(MARK)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    build_traced_run(folder / "traced", MARK)
    build_small_run(folder / "bare")
    return folder


@pytest.fixture(scope="module")
def viewer(traced: Path) -> TestClient:
    return TestClient(create_app([traced]), base_url=ADDRESS)


def page(viewer: TestClient, trajectory_id: str, run: str = "traced", query: str = "") -> Element:
    answer = viewer.get(urls.trajectory_url(run, trajectory_id) + query)
    assert answer.status_code == 200, answer.text
    return parse(answer.text)


def test_the_spans_are_the_stored_text(viewer: TestClient, traced: Path) -> None:
    (stored,) = load(traced / "traced", Correction, correction_id=CORRECTION_ID)
    (box,) = page(viewer, CORRECTION_ID).all("div", class_="trajectory")
    parts = box.all("span", class_="part")
    assert [part.attributes["data-part"] for part in parts] == ["wrong prefix", "diagnosis", "correction"]
    assert "".join(part.text for part in parts) == box.text == stored.constructed_text
    assert parts[0].text == stored.constructed_text[: stored.prefix_char_end]
    assert [part.text.strip("\n") for part in parts[1:]] == [stored.diagnosis, stored.correction]
    places = [(int(part.attributes["data-from"] or ""), int(part.attributes["data-to"] or "")) for part in parts]
    assert [stored.constructed_text[low:high] for low, high in places] == [part.text for part in parts]


def test_each_token_has_its_stored_weight(viewer: TestClient, texts: Texts) -> None:
    shown = page(viewer, CORRECTION_ID)
    tokens = shown.all("div", class_="trajectory")[0].all("span", class_="tok")
    by_place: dict[int, str] = {}
    for token in tokens:
        place = int(token.attributes["data-t"] or "")
        assert float(token.attributes["data-w"] or "") == pytest.approx(texts.weights[place], rel=1e-6)
        assert (token.attributes["title"] or "").startswith(f"token {place}: OTS weight ")
        by_place[place] = by_place.get(place, "") + token.text
    # Each token says what the tokenizer says of it, but for those that are only a part of a character.
    for place, text in by_place.items():
        alone = decode([texts.tokens[place]])
        assert text == alone or "\N{REPLACEMENT CHARACTER}" in alone
    assert "".join(by_place[place] for place in sorted(by_place)) == texts.construction.text


def test_the_table_has_every_token(viewer: TestClient, texts: Texts) -> None:
    (table,) = page(viewer, CORRECTION_ID).all("details", class_="tokens")
    rows = [[cell.text for cell in row.children if isinstance(cell, Element)] for row in table.all("tr")[1:]]
    assert [int(row[1].replace(",", "")) for row in rows] == texts.tokens
    assert [float(row[4]) for row in rows] == pytest.approx(texts.weights, rel=1e-3)
    assert [float(row[5]) for row in rows] == pytest.approx(texts.logprobs, rel=1e-3)
    assert [float(row[6]) for row in rows] == pytest.approx(texts.entropies, rel=1e-3)
    # What the sampler said is known of the kept prefix alone: the rest was never sampled as it stands.
    assert [row[7] != "–" for row in rows] == [i < texts.n_kept for i in range(len(rows))]
    assert [float(row[8]) for row in rows] == pytest.approx([0.5 * weight for weight in texts.weights], rel=1e-3)


def test_what_it_was_made_from_is_beside_it(viewer: TestClient, texts: Texts) -> None:
    shown = page(viewer, CORRECTION_ID)
    sides = {section.all("h2")[0].text: section for section in shown.all("section", class_="side")}
    reference, wrong = sides["Reference rollout, which it was shown"], sides["Wrong rollout, which it corrects"]
    assert reference.all("div", class_="model-text")[0].text == texts.reference
    assert wrong.all("div", class_="model-text")[0].text == texts.wrong
    assert [part.text for part in wrong.all("span", class_="error")] == [texts.wrong.splitlines()[0]]
    links = {a.attributes["href"] for a in shown.all("a")}
    assert {urls.trajectory_url("traced", ROLLOUTS[k]) for k in (0, 2)} <= links
    assert {urls.group_url("traced", 1, QUERY_ID), urls.lineage_url("traced", CORRECTION_ID)} <= links


def test_a_rollout_leads_to_its_constructions_and_neighbours(viewer: TestClient, texts: Texts) -> None:
    shown = page(viewer, ROLLOUTS[2])
    assert shown.all("div", class_="trajectory")[0].text == texts.wrong
    keys = {key: a.attributes["href"] for a in shown.all("a") for key in (a.attributes.get("data-key") or "").split()}
    assert keys["k"] == keys["ArrowLeft"] == urls.trajectory_url("traced", ROLLOUTS[1])
    assert keys["j"] == keys["ArrowRight"] == urls.trajectory_url("traced", ROLLOUTS[3])
    assert keys["g"] == urls.group_url("traced", 1, QUERY_ID)
    assert keys["l"] == urls.lineage_url("traced", ROLLOUTS[2])
    assert urls.trajectory_url("traced", CORRECTION_ID) in {a.attributes["href"] for a in shown.all("a")}
    first = page(viewer, EVALUATION_ROLLOUT)  # alone among the evaluation rollouts of its iteration
    assert not [a for a in first.all("a") if a.attributes.get("rel") in ("next", "prev")]


def test_the_beginning_of_an_id_leads_to_the_whole(viewer: TestClient) -> None:
    for whole, address in ((CORRECTION_ID, urls.trajectory_url), (VERSIONS[0], urls.lineage_url)):
        answer = viewer.get(urls.trajectory_url("traced", whole[:8]), follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (307, address("traced", whole))
    assert viewer.get(urls.trajectory_url("traced", "ffffffff")).status_code == 404
    assert viewer.get(urls.trajectory_url("traced", CORRECTION_ID[:-1] + "2")).status_code == 404
    assert viewer.get(urls.trajectory_url("traced", "../../etc")).status_code == 404


def test_without_the_tokenizer_the_weights_are_there_by_place(viewer: TestClient) -> None:
    shown = page(viewer, CORRECTION_ID, run="bare")
    notes = " ".join(note.text for note in shown.all("p", class_="empty"))
    assert "the tokenizer is not there any more (looked for /models/start/tokenizer.json" in notes
    assert "2 tokens and 3 weights" in notes
    (table,) = shown.all("details", class_="tokens")
    rows = [[cell.text for cell in row.children if isinstance(cell, Element)] for row in table.all("tr")[1:]]
    assert [row[4] for row in rows] == ["0.5", "1.5", "4"]
    assert [
        part.attributes["data-part"] for part in shown.all("div", class_="trajectory")[0].all("span", class_="part")
    ] == [
        "wrong prefix",
        "diagnosis",
        "correction",
    ]


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    build_traced_run(tmp_path / "traced")
    (tmp_path / "traced" / MODEL / "tokenizer.json").write_text("{}")
    shown = page(TestClient(create_app([tmp_path]), base_url=ADDRESS), CORRECTION_ID)
    assert "tokenizer.json cannot be read" in " ".join(note.text for note in shown.all("p", class_="empty"))


def test_parts_that_do_not_give_the_text_are_not_shown_as_parts() -> None:
    made, wrong = make_correction(), "7 + 12 = 18. The answer is 18."
    assert [span.part for span in construction_spans(made, wrong)] == [Part.PREFIX, Part.DIAGNOSIS, Part.CORRECTION]
    for bad in (
        dataclasses.replace(made, diagnosis="Something else was said."),
        dataclasses.replace(made, constructed_text="[redacted]"),
        dataclasses.replace(made, correction="The answer"),
    ):
        with pytest.raises(ValueError, match="characters"):
            construction_spans(bad, wrong)


LINES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="<>"), min_size=1, max_size=20), min_size=1, max_size=4
)


@given(LINES, LINES, st.sampled_from(["\n", "\n\n"]))
def test_spans_of_any_construction_that_parses_give_its_text(wrong: list[str], corrected: list[str], gap: str) -> None:
    text = gap.join(wrong)
    body = "\n".join((wrong[0], "Wait, that is not right.", *corrected))
    raw = f"<analysis>a</analysis><reconstruction>{body}</reconstruction>"
    parsed = parse_construction(raw, FinishReason.STOP, text, "reference", CorrectionConfig(max_copied_words=0))
    assume(parsed.outcome is ParseOutcome.PARSED)
    made = dataclasses.replace(
        make_correction(),
        prefix_char_end=parsed.prefix_char_end,
        diagnosis=parsed.diagnosis,
        correction=parsed.correction,
        constructed_text=parsed.text,
    )
    spans = construction_spans(made, text)
    assert "".join(span.text for span in spans) == parsed.text
    assert spans[0].text == text[: parsed.prefix_char_end]
    by_part = {span.part: span.text for span in spans}
    assert by_part[Part.DIAGNOSIS].lstrip() == parsed.diagnosis
    assert by_part[Part.CORRECTION].endswith((parsed.correction or "").lstrip())


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_texts_of_tokens_give_the_text(text: str) -> None:
    ids = [*encode(text), tokenizer().eos_token_id]
    texts = token_texts(ids, decode)
    assert len(texts) == len(ids)
    assert "".join(texts) == decode(ids)


@given(st.lists(st.integers(0, 511), max_size=40))
def test_texts_of_any_tokens_are_one_each(ids: list[int]) -> None:
    """Also of bytes that are no text, as a model that has just begun to learn writes them."""
    assert len(token_texts(ids, decode)) == len(ids)


def test_the_small_store_has_what_the_page_says(viewer: TestClient, traced: Path) -> None:
    facts = {}
    for block in page(viewer, CORRECTION_ID).all("dl", class_="facts"):
        cells = [child for child in block.children if isinstance(child, Element)]
        facts |= {cells[i].text: cells[i + 1].text for i in range(0, len(cells), 2)}
    (rollout,) = load(traced / "traced", Rollout, rollout_id=ROLLOUTS[2])
    (query,) = load(traced / "traced", Query, query_id=QUERY_ID)
    assert facts["Reward"] == "1"
    assert facts["Advantage"].startswith(
        "0.5 in the constructed group: reward 1, mean 0.75, standard deviation 0.5 over 1"
    )
    assert facts["Decision"].startswith("selected: verified (its query's group: 2 correct, 1 wrong, 1 unknown)")
    assert facts["Seed"] == "7"
    assert facts["wrong_rollout_text"] == rollout.text
    assert facts["query_text"] == query.text
    votes = page(viewer, CORRECTION_ID).all("code")
    assert json.loads(next(code.text for code in votes if code.text.startswith("[{"))) == [
        {"seed": 1, "step": 0},
        {"seed": 2, "step": None},
    ]
