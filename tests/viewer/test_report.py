"""The report: what is in it, and that a run has it at its end."""

import re
from pathlib import Path

import pytest
from small_run import CONFIG_DIGEST, CORRECTION_ID, QUERY_ID, build_small_run
from typer.testing import CliRunner

from tapo_core.cli.main import app
from tapo_core.errors import UserError
from tapo_core.ids import deterministic_id
from tapo_core.keeping import REPORT, drop_from_views
from tapo_core.store.iteration_counts import iteration_counts
from tapo_core.store.snapshot import snapshot_commits
from tapo_core.viewer.report import write_report
from tests.viewer.conftest import N_ITERATIONS
from tests.viewer.dom import Element, parse


def read(file: Path) -> Element:
    return parse(file.read_text(encoding="utf-8"))


def test_it_has_the_newest_constructions_and_their_groups(runs_folder: Path, tmp_path: Path) -> None:
    there = sum(one.n_constructions or 0 for one in iteration_counts(snapshot_commits(runs_folder / "drawn")))
    written = write_report(runs_folder / "drawn", tmp_path / "r.html", 5)
    assert (written.n_trajectories, written.n_there) == (5, there)
    shown = read(written.file)
    articles = shown.all("article", class_="one")
    assert len(articles) == 5
    assert f"5 of {there:,} constructions" in shown.text
    # All of the newest iteration, which has that many; of different outcomes, as far as it has them.
    assert all(f"iteration {N_ITERATIONS}" in article.all("h2")[0].text for article in articles)
    outcomes = [article.all("h2")[0].text.split()[-1] for article in articles]
    assert len(set(outcomes)) > 1
    places = {element.attributes["id"] for element in shown.all() if "id" in element.attributes}
    links = {(a.attributes["href"] or "")[1:] for a in shown.all("a")}
    assert links <= places
    assert len([place for place in places if place and place.startswith("group-")]) >= 1
    ids = [element.attributes["id"] for element in shown.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))


def test_more_than_there_are(runs_folder: Path, tmp_path: Path) -> None:
    written = write_report(runs_folder / "small", tmp_path / "r.html", 500)
    assert (written.n_trajectories, written.n_there) == (1, 1)
    shown = read(written.file)
    assert [one.attributes["id"] for one in shown.all("article")] == [
        f"trajectory-{CORRECTION_ID}",
        f"group-1-{QUERY_ID}",
    ]
    assert CONFIG_DIGEST[:8] in shown.text


@pytest.mark.parametrize("n_stages", [1, 2, 3])
def test_a_run_that_has_just_begun_has_one_too(tmp_path: Path, n_stages: int) -> None:
    written = write_report(build_small_run(tmp_path / "small", n_stages))
    assert written.file == tmp_path / "small" / REPORT
    text = read(written.file).text
    assert "The run has no constructions" in text
    assert ("No rollouts are committed yet" in text) == (n_stages == 1)


def test_the_command_says_what_it_wrote(runs_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "of the run.html"
    done = CliRunner().invoke(app, ["report", str(runs_folder / "small"), "--output", str(file)])
    assert done.exit_code == 0, done.output
    assert re.search(r"MB, 1 of 1 constructions", done.output.replace("\n", ""))
    assert file.is_file()


def test_what_cannot_be_is_told(runs_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run in"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="is a folder: name a file"):
        write_report(runs_folder / "small", tmp_path)


def test_a_redaction_takes_the_report_with_it(tmp_path: Path) -> None:
    folder = build_small_run(tmp_path / "small")
    file = write_report(folder).file
    assert drop_from_views(folder, deterministic_id("query", n=1)) == []  # which is not in it
    assert file.exists()
    assert drop_from_views(folder, QUERY_ID) == [file]
    assert not file.exists()
