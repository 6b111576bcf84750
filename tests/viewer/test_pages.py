"""What the pages about runs, iterations and groups say, held against the store."""

import html
import math
import re
from pathlib import Path

import pytest
from small_run import CORRECTION_ID, QUERY_ID, ROLLOUTS, build_small_run, commit, stages
from starlette.testclient import TestClient

from tapo_core.statistics import wilson
from tapo_core.store import open_reader
from tapo_core.store.commits import StageCommit
from tapo_core.store.iteration_counts import iteration_counts
from tapo_core.store.snapshot import snapshot_commits
from tapo_core.store.view_snapshots import Connection, Snapshots
from tapo_core.viewer import urls
from tapo_core.viewer.app import create_app
from tapo_core.viewer.charts import Chart, Point, Series, draw
from tests.viewer.conftest import ADDRESS, N_ITERATIONS, evaluate_again


def shown(client: TestClient, address: str, status: int = 200) -> str:
    """The words of a page, in one line."""
    answer = client.get(address)
    assert answer.status_code == status, answer.text
    assert '<html lang="en">' in answer.text
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", answer.text)).split())


def links(client: TestClient, address: str) -> set[str]:
    return {html.unescape(link) for link in re.findall(r'href="([^"#]+)', client.get(address).text)}


def test_all_runs_are_listed_with_their_numbers(client: TestClient) -> None:
    page = shown(client, "/")
    assert "small tapo 1" in page
    assert f"drawn tapo 0 {N_ITERATIONS} {N_ITERATIONS * 64}" in page
    assert {urls.run_url("small"), urls.run_url("drawn")} <= links(client, "/")


def test_a_run_that_cannot_be_read_is_named_and_hides_no_other(runs_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken" / "store").mkdir(parents=True)
    (tmp_path / "broken" / "store" / "ledger.jsonl").write_text("no ledger\n")
    build_small_run(tmp_path / "small", 1)
    client = TestClient(create_app([tmp_path]), base_url=ADDRESS)
    page = shown(client, "/")
    assert "broken cannot be read" in page
    assert "small tapo" in page
    assert "ledger.jsonl" in shown(client, "/run/broken", 500)


def test_no_run_says_what_to_do(tmp_path: Path) -> None:
    assert "tapo demo" in shown(TestClient(create_app([tmp_path]), base_url=ADDRESS), "/")


def test_two_runs_of_one_name_are_refused_by_both_paths(tmp_path: Path) -> None:
    for place in ("one", "two"):
        build_small_run(tmp_path / place / "small", 1)
    page = shown(TestClient(create_app([tmp_path / "one", tmp_path / "two"]), base_url=ADDRESS), "/", 400)
    assert f"{tmp_path}/one/small" in page
    assert f"{tmp_path}/two/small" in page


def test_counts_by_manifests_are_those_of_the_rows(runs_folder: Path) -> None:
    folder = runs_folder / "drawn"
    counts = {one.iteration: one for one in iteration_counts(snapshot_commits(folder))}
    with open_reader(folder) as connection:
        rows = connection.execute(
            "SELECT iteration, n_rollouts, accuracy, n_unknown, n_corrections, n_parsed, n_trained_original, "
            "n_trained_constructed FROM iteration_summary"
        ).fetchall()
        lengths = dict(connection.execute("SELECT iteration, avg(n_tokens) FROM rollout GROUP BY ALL").fetchall())
    assert len(rows) == N_ITERATIONS
    for iteration, n_rollouts, accuracy, n_unknown, n_corrections, n_parsed, original, constructed in rows:
        one = counts[iteration]
        assert one.n_rollouts == n_rollouts
        assert one.accuracy is not None
        assert one.accuracy.value == pytest.approx(accuracy)
        assert one.verdicts.get("unknown", 0) == n_unknown
        assert (one.n_constructions, one.parses.get("parsed", 0)) == (n_corrections, n_parsed)
        assert one.trained == {"original": original, "constructed": constructed}
        assert one.mean_tokens == pytest.approx(lengths[iteration])


def test_the_ends_of_wilsons_interval_solve_its_equation() -> None:
    found = wilson(15, 50, 0.95)
    for end in (found.low, found.high):  # as far from the share as 1.96 of its standard errors
        assert abs(found.value - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 50), rel=1e-5)
    assert wilson(0, 10, 0.95).low == pytest.approx(0.0)
    assert wilson(10, 10, 0.95).high == pytest.approx(1.0)


def test_a_run_has_curves_with_the_stored_intervals(client: TestClient) -> None:
    page = shown(client, "/run/drawn")
    with open_reader(Path(client.app.state.runs.folder("drawn"))) as connection:  # type: ignore[attr-defined]
        sql = "SELECT iteration, value, low, high, interval_method FROM evaluation WHERE metric = 'pass@1'"
        evaluated = connection.execute(sql).fetchall()
    assert evaluated
    for iteration, value, low, high, method in evaluated:
        assert f"held_out, iteration {iteration}: {value:.1%} ({low:.1%} to {high:.1%})" in page
        assert f"95% {method}, as the evaluation stored them" in page
    for title in (
        "Accuracy of the training rollouts",
        "Response length, tokens",
        "Policy-gradient loss",
        "Gradient norm",
    ):
        assert f"{title} by iteration" in page
    assert {urls.iteration_url("drawn", n) for n in range(N_ITERATIONS + 1)} <= links(client, "/run/drawn")


def test_a_run_that_just_begins_says_what_comes(tmp_path: Path) -> None:
    build_small_run(tmp_path / "small", 2)
    client = TestClient(create_app([tmp_path / "small"]), base_url=ADDRESS)
    assert "No policy version is evaluated yet" in shown(client, "/run/small")
    page = shown(client, urls.iteration_url("small", 1))
    assert "still running" in page
    assert "0 of 4" in page  # nothing is verified
    group = shown(client, urls.group_url("small", 1, QUERY_ID))
    assert group.count("not verified yet") == 4


def test_an_iteration_lists_its_groups_and_constructions(client: TestClient) -> None:
    page = shown(client, urls.iteration_url("small", 1))
    assert "Start with 7. Add 12. 19 2 of 4 1 0 1 2 2 eligible" in page
    assert {urls.group_url("small", 1, QUERY_ID), urls.trajectory_url("small", CORRECTION_ID)} <= links(
        client, urls.iteration_url("small", 1)
    )
    assert "0 of 1 0 1 0" in shown(client, urls.iteration_url("small", 1) + "?kind=evaluation")


def test_a_group_shows_its_rollouts_side_by_side(client: TestClient) -> None:
    address = urls.group_url("small", 1, QUERY_ID)
    page = shown(client, address)
    assert "Reward none Answer – by number Reason timeout" in page  # unknown is not reward 0
    assert "Advantage -1 Decision eligible First error step 1, by policy: 7 + 12 = 18" in page
    assert page.index("k = 0") < page.index("k = 1") < page.index("k = 2") < page.index("k = 3")
    assert {urls.trajectory_url("small", rollout) for rollout in ROLLOUTS} <= links(client, address)


def test_addresses_of_what_is_not_there_say_what_is(client: TestClient) -> None:
    assert "there is drawn, small" in shown(client, "/run/other", 404)
    assert "0 to 4 are there" in shown(client, urls.iteration_url("drawn", 77), 404)
    assert "has no query" in shown(client, urls.group_url("small", 1, ROLLOUTS[0]), 404)
    assert "has no query" in shown(client, urls.group_url("small", 1, "no id"), 404)
    assert "no such page" in shown(client, "/elsewhere", 404)
    assert "the address is wrong" in shown(client, "/run/small/iteration/one", 400)


def test_two_policy_versions_are_compared_by_problem(client: TestClient) -> None:
    address = urls.compare_url("small:3", "small:2", "train")
    page = shown(client, address)
    assert "small:3 less small:2: +75.0 points of pass@1" in page
    assert "1 problems of train, paired" in page
    assert "100.0% 25.0% +75.0" in page
    assert {urls.group_url("small", 3, QUERY_ID), urls.group_url("small", 2, QUERY_ID)} <= links(client, address)
    assert "was not evaluated on 'held_out'" in shown(client, urls.compare_url("small:3", "small:2"))
    assert "write a policy version as" in shown(client, urls.compare_url("small", "small:2"), 400)
    assert "small:3" in shown(client, "/compare")


def test_settings_that_differ_are_listed(client: TestClient) -> None:
    assert "run.seed 1 0" in shown(client, urls.compare_url("small:3", "drawn:1"))


def test_a_page_has_what_was_committed_since_the_last_one(tmp_path: Path) -> None:
    folder = build_small_run(tmp_path / "small", 2)
    client = TestClient(create_app([tmp_path]), base_url=ADDRESS)
    address = urls.group_url("small", 1, QUERY_ID)
    assert "not verified yet" in shown(client, address)
    commit(folder, stages()[2])
    assert "not verified yet" not in shown(client, address)


def test_a_snapshot_is_kept_until_one_of_its_own_commits_comes(tmp_path: Path) -> None:
    folder = build_small_run(tmp_path / "small", 2)
    snapshots = Snapshots(folder)
    with snapshots.open([1]) as first:
        assert first.execute("SELECT count(*) FROM rollout").fetchone() == (4,)
    evaluate_again(folder, 2, 1)
    with snapshots.open([1]) as again, snapshots.open() as everything:
        assert again is first
        assert everything.execute("SELECT count(*) FROM rollout").fetchone() == (8,)
    commit(folder, stages()[2])
    with snapshots.open([1]) as newer:
        assert newer is not first
        assert newer.execute("SELECT count(*) FROM verdict").fetchone() == (4,)


def test_a_chart_is_inside_its_frame_and_says_its_numbers() -> None:
    points = [Point(n, n / 10, n / 10 - 0.05, n / 10 + 0.05) for n in range(1, 10)]
    drawn = draw(Chart("t", [Series("s", points)], percent=True))
    assert drawn is not None
    (line,) = drawn.lines
    assert all(drawn.left <= dot.x <= drawn.right and 0 <= dot.y <= drawn.bottom for dot in line.dots)
    assert [dot.y for dot in line.dots] == sorted((dot.y for dot in line.dots), reverse=True)  # up is more
    assert all(dot.high is not None and dot.low is not None and dot.high < dot.y < dot.low for dot in line.dots)
    assert drawn.told == "s: 10.0% at iteration 1, 90.0% at iteration 9"
    assert draw(Chart("t", [Series("s", [])])) is None
    assert draw(Chart("t", [Series("s", [Point(1, float("nan"))])])) is None
    alone = draw(Chart("t", [Series("s", [Point(3, 5.0)])]))
    assert alone is not None
    assert [tick.text for tick in alone.x_ticks] == ["3"]


def test_an_alarm_of_an_update_is_shown() -> None:
    told = {"n_original": 3, "n_constructed": 1, "alarms": ["sampler and trainer are apart"]}
    update = StageCommit(
        2, "r", 1, "update_policy", "", "", told, {"policy_version": 1}, "", None, "", "2026-01-02T00:00:00"
    )
    (one,) = iteration_counts([update])
    assert one.alarms == ["sampler and trainer are apart"]
    assert one.is_trained
    assert (one.accuracy, one.parsed, one.mean_tokens, one.eligible) == (None, None, None, None)


def test_what_was_read_is_remembered_until_its_tables_have_new_rows(tmp_path: Path) -> None:
    folder = build_small_run(tmp_path / "small", 5)
    snapshots, asked = Snapshots(folder), []

    def count(connection: Connection) -> object:
        asked.append("evaluation")
        return connection.execute("SELECT count(*) FROM evaluation").fetchone()

    assert [snapshots.remembered(["evaluation"], count) for _ in range(2)] == [(0,), (0,)]
    evaluate_again(folder, 2, 1)  # has rollouts and verdicts only
    assert snapshots.remembered(["evaluation"], count) == (0,)
    assert len(asked) == 1
    commit(folder, stages()[5])
    assert snapshots.remembered(["evaluation"], count) == (1,)
