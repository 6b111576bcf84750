"""Shared fixtures. Heavy engines are started once a session, in this process, on the built-in model."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # there is a test process for each core

from tapo_core.engines.environment import prepare_environment

prepare_environment()

# No test depends on how fast the machine is.
settings.register_profile("tapo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tapo")


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One temporary Prefect server and database for all tests that run flows."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=90):
        yield


@pytest.fixture(scope="session")
def nano_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests keep built nano worlds: a fresh folder, so that nothing from an earlier run is used.

    The processes of one test run share it: the first one that needs a world builds it, the others wait.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return tmp_path_factory.mktemp("nano-cache")
    folder = tmp_path_factory.getbasetemp().parent / "nano-cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def offer_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a package whose module has the given code, and offers its `judge` as the verifier "offered"."""

    def offer(code: str) -> None:
        folder = tmp_path / "installed"
        metadata = folder / "offered-1.2.3.dist-info"
        metadata.mkdir(parents=True)
        (folder / "offered_verifier.py").write_text(code)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.2.3\n")
        (metadata / "entry_points.txt").write_text("[tapo.verifiers]\noffered = offered_verifier:judge\n")
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, "offered_verifier", raising=False)

    return offer


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # torch leaves its file open
