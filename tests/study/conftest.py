"""A made-up study: its file, its plan, and its finished runs."""

from pathlib import Path

import pytest

from tapo_core.study.config import StudyConfig, load_study
from tapo_core.study.plan import PlannedRun, plan_runs
from tests.study.made_runs import make_run, write_study

Made = tuple[StudyConfig, list[PlannedRun]]


@pytest.fixture(scope="session")
def made_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the finished runs are; read only. GRPO generates as many tokens as TAPO with seed 0 alone."""
    folder = tmp_path_factory.mktemp("made")
    for run in _planned(folder)[1]:
        make_run(run, tokens=15 if run.name == "chain-cold-grpo-s0" else 10)
    return folder


@pytest.fixture
def made(made_folder: Path) -> Made:
    return _planned(made_folder)


def _planned(folder: Path) -> Made:
    file = write_study(folder)
    study = load_study(file)
    study = study.model_copy(update={"study": study.study.model_copy(update={"output_dir": folder / "runs"})})
    return study, plan_runs(study, str(file))
