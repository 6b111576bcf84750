"""A run of several iterations, drawn at random: larger than those made by hand, much smaller than the benchmark's."""

import contextlib
import importlib
import io
from pathlib import Path
from typing import Any

import pytest
import store as benchmark
from store_questions import QUESTIONS
from synthetic_run import SyntheticRun

from tapo_core.store import lineage, open_reader
from tapo_core.store.audit import verify

N_ITERATIONS = 12


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    made = benchmark.make_systems(tmp_path_factory.mktemp("systems"))
    with contextlib.redirect_stdout(io.StringIO()):
        benchmark.ingest(made, SyntheticRun(12, n_queries=24), N_ITERATIONS, n_groups=4)
    for system in made:
        system.finish()
    return made


@pytest.fixture(scope="module")
def run_folder(systems: list[Any]) -> Path:
    folder: Path = systems[0].folder
    return folder


def _ids(run_folder: Path, sql: str) -> list[str]:
    with open_reader(run_folder) as connection:
        return [str(row[0]) for row in connection.execute(sql).fetchall()]


@pytest.fixture(scope="module")
def chosen(run_folder: Path) -> dict[str, str]:
    sql = "SELECT min(subject_id) FROM token_weight UNION ALL SELECT min(query_id) FROM rollout"
    return dict(zip(("subject", "query"), _ids(run_folder, sql), strict=True))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name.replace(" ", "_"))
def test_four_systems_give_one_answer(systems: list[Any], question: benchmark.Question, chosen: dict[str, str]) -> None:
    answers = [system.ask(question, chosen) for system in systems]
    assert answers[0] or question.name == "queries never solved"
    assert [benchmark.same(answers[0], answer) for answer in answers] == [True] * len(systems)


def test_looking_near_finds_what_looking_everywhere_finds(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT id FROM lineage_node QUALIFY row_number() OVER (PARTITION BY kind ORDER BY hash(id)) = 1"
    chosen = _ids(run_folder, sql)
    assert len(chosen) == 8  # kinds
    near = [lineage(run_folder, subject) for subject in chosen]
    module = importlib.import_module("tapo_core.store.lineage")
    monkeypatch.setattr(module, "open_reader", lambda folder, **_narrower: open_reader(folder))
    everywhere = [lineage(run_folder, subject) for subject in chosen]
    assert near == everywhere
    assert any(len(found.nodes) > 100 for found in near)


def test_a_run_of_this_size_verifies(run_folder: Path) -> None:
    report = verify(run_folder)
    assert {finding.kind for finding in report.findings} == {"gone"}  # the policies, which nobody trained
