"""The search finds what SQL finds, page by page, and says how far it came."""

import html
import re
from pathlib import Path

import pytest
from small_run import CORRECTION_ID, QUERY_ID, ROLLOUTS
from starlette.testclient import TestClient

from tapo_core.errors import UserError
from tapo_core.store import open_reader, view_search
from tapo_core.store.snapshot import snapshot_commits
from tapo_core.store.view_search import Filters, Found, search
from tapo_core.viewer import urls

_ALL = """
    SELECT CAST(rollout_id AS VARCHAR) AS id, iteration, kind, text, query_id, NULL AS diagnosis, NULL AS parse_outcome
    FROM rollout
    UNION ALL
    SELECT CAST(correction_id AS VARCHAR), iteration, 'constructed', coalesce(constructed_text, raw_output), query_id, diagnosis,
        parse_outcome
    FROM correction
"""
FILTERS = [
    (Filters(), "true"),
    (
        Filters(text="WAIT redo"),
        "(t.text ILIKE '%wait redo%' OR q.text ILIKE '%wait redo%' OR diagnosis ILIKE '%wait redo%')",
    ),
    (Filters(iteration=2), "t.iteration = 2"),
    (Filters(kind="constructed"), "kind = 'constructed'"),
    (Filters(verdict="wrong"), "v.outcome = 'wrong'"),
    (Filters(reward=1.0), "v.reward = 1"),
    (Filters(parse_outcome="no_diagnosis"), "parse_outcome = 'no_diagnosis'"),
    (Filters(error_kind="false_equation", iteration=3), "t.iteration = 3 AND w.error_kind = 'false_equation'"),
    (Filters(text="no such words"), "false"),
]


def looked(
    folder: Path, filters: Filters, position: str | None = None, limit: int = 1000, seconds: float = 60
) -> Found:
    commits = snapshot_commits(folder)
    return search(folder, commits, filters, position=position, limit=limit, seconds=seconds)


@pytest.mark.parametrize(("filters", "where"), FILTERS, ids=lambda value: value if isinstance(value, str) else "")
def test_it_finds_what_sql_finds(runs_folder: Path, filters: Filters, where: str) -> None:
    folder = runs_folder / "drawn"
    with open_reader(folder) as connection:
        expected = connection.execute(
            f"SELECT t.id FROM ({_ALL}) t JOIN query q ON q.query_id = t.query_id "
            "LEFT JOIN verdict v ON CAST(v.subject_id AS VARCHAR) = t.id "
            f"LEFT JOIN wrong_rollout w ON CAST(w.rollout_id AS VARCHAR) = t.id WHERE {where} ORDER BY t.iteration DESC, t.id"
        ).fetchall()
    found = looked(folder, filters)
    assert [hit.trajectory_id for hit in found.hits] == [row[0] for row in expected]
    assert found.position is None
    assert expected or where == "false"


@pytest.mark.parametrize("seconds", [60, 0.0])
def test_pages_follow_one_another_without_gap_or_repetition(
    runs_folder: Path, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_search, "_FIRST_ROWS", 1)
    folder = runs_folder / "drawn"
    whole = [hit.trajectory_id for hit in looked(folder, Filters(verdict="correct")).hits]
    pages, position = [], None
    for _ in range(100):
        found = looked(folder, Filters(verdict="correct"), position, limit=7, seconds=seconds)
        pages.append([hit.trajectory_id for hit in found.hits])
        position = found.position
        if position is None:
            break
    assert position is None
    assert [one for page in pages for one in page] == whole
    assert max(map(len, pages)) == 7


def test_without_time_it_looks_through_one_iteration_and_says_where_to_go_on(
    runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_search, "_FIRST_ROWS", 1)
    found = looked(runs_folder / "drawn", Filters(text="no such words"), seconds=0.0)
    assert (found.hits, found.newest, found.oldest, found.position) == ([], 4, 4, "4")
    again = looked(runs_folder / "drawn", Filters(text="no such words"), position="4", seconds=0.0)
    assert (again.newest, again.position) == (3, "3")


@pytest.mark.parametrize("position", ["x", "1:2", "-1", "1; DROP", "12:" + "g" * 36])
def test_a_place_that_no_search_gave_is_refused(runs_folder: Path, position: str) -> None:
    with pytest.raises(UserError, match="no place to go on from"):
        looked(runs_folder / "drawn", Filters(), position)


def test_quotes_and_wildcards_are_looked_for_as_they_are(runs_folder: Path) -> None:
    for text in ("%", "_", "'", "\\", '"; --'):
        assert looked(runs_folder / "drawn", Filters(text=text)).hits == []
    assert (
        len(looked(runs_folder / "small", Filters(text="7 + 12 = 18")).hits) == 2
    )  # the wrong rollout, and what keeps it


def test_the_page_shows_hits_with_links(client: TestClient) -> None:
    text = client.get(urls.search_url("small", q="wait, 7 + 12")).text
    assert "<mark>Wait, 7 + 12</mark>" in text
    assert urls.trajectory_url("small", CORRECTION_ID) in text
    assert urls.group_url("small", 1, QUERY_ID) in text
    assert "1 found in iterations 3 to 1" in " ".join(re.sub("<[^>]*>", " ", text).split())
    assert "All was looked through" in " ".join(text.split())


def test_the_page_keeps_what_was_asked_and_offers_the_next_page(client: TestClient) -> None:
    text = client.get(urls.search_url("drawn", verdict="correct", kind="training")).text
    assert '<option value="correct" selected>' in text
    (following,) = {html.unescape(link) for link in re.findall(r'rel="next" href="([^"]+)"', text)}
    assert "verdict=correct" in following
    assert "kind=training" in following
    ids = [set(re.findall(r'/trajectory/([0-9a-f-]{36})"', page)) for page in (text, client.get(following).text)]
    assert ids[0]
    assert ids[1]
    assert not ids[0] & ids[1]


def test_an_unknown_filter_value_is_named(client: TestClient) -> None:
    for name, value in (
        ("verdict", "right"),
        ("kind", "x"),
        ("reward", "0.5"),
        ("iteration", "one"),
        ("error_kind", "y"),
    ):
        answer = client.get(urls.search_url("small", **{name: value}))
        assert answer.status_code == 400
        assert f"{name}=&#39;{value}&#39;" in answer.text


def test_what_was_looked_for_may_be_an_id(client: TestClient) -> None:
    assert urls.lineage_url("small", ROLLOUTS[2]) in client.get(urls.search_url("small", q=ROLLOUTS[2])).text
