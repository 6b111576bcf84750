"""Runs that several modules change: built once, copied for each test."""

import shutil
from pathlib import Path

import pytest
from small_run import QUERY_ID
from worded_run import build_worded_run

from tapo_core.store.redact import redact_query


@pytest.fixture(scope="session")
def _worded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worded")
    build_worded_run(folder)
    return folder


@pytest.fixture(scope="session")
def _redacted(_worded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("redacted") / "run"
    shutil.copytree(_worded, folder)
    redact_query(folder, QUERY_ID, "licence")
    return folder


@pytest.fixture
def worded(_worded: Path, tmp_path: Path) -> Path:
    """The worded run."""
    return Path(shutil.copytree(_worded, tmp_path / "run"))


@pytest.fixture
def redacted(_redacted: Path, tmp_path: Path) -> Path:
    """The same, without the text of its problem."""
    return Path(shutil.copytree(_redacted, tmp_path / "run"))
