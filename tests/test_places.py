"""No place to write: one line that names the folder and what to do, before Prefect or an engine is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tapo_core.errors import UserError
from tapo_core.files import check_folder, make_folder
from tapo_core.nano.config import NanoConfig
from tapo_core.nano.prepare import prepare

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ["train", str(ROOT / "configs" / "nano_tapo.toml")]
UP = ["up", "--port", "4999"]
#: Ends with exit code 99 when something heavy was imported on the way to the message.
TAPO = """
import sys
from tapo_core.cli.main import main
try:
    main()
finally:
    if {"prefect", "torch", "vllm", "ray"} & set(sys.modules):
        sys.exit(99)
"""


def refused(arguments: list[str], cwd: Path, env: dict[str, str]) -> str:
    """The line with which a command is refused."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TAPO_"))}
    ours |= {"PYTHONPATH": str(ROOT), "HOME": str(cwd)} | env
    done = subprocess.run(
        [sys.executable, "-c", TAPO, *arguments], cwd=cwd, env=ours, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert arguments == UP or cwd.is_relative_to("/proc") or list(cwd.iterdir()) == [], "nothing was made"
    return line


@pytest.mark.parametrize(
    "command",
    [
        TRAIN,
        ["demo"],
        ["resume", "runs/nano-tapo"],
        ["cold-start", str(ROOT / "configs" / "nano_cold_start.toml")],
        ["zpd", *TRAIN[1:]],
        ["eval", *TRAIN[1:]],
        UP,
    ],
    ids=lambda command: command[0],
)
def test_a_home_that_cannot_be(command: list[str], tmp_path: Path) -> None:
    line = refused(command, tmp_path, {"HOME": "/dev/null/home"})
    assert line.startswith("tapo: /dev/null/home/.")
    assert line.endswith("to a folder that can be written to")


@pytest.mark.parametrize(
    ("command", "variable", "folder", "named"),
    [
        (TRAIN, "TAPO_CACHE", "/proc/cache", "/proc/cache/nano"),
        (TRAIN, "PREFECT_HOME", "/proc/prefect", "/proc/prefect"),
        (TRAIN, "TMPDIR", "/nonexistent/tmp", "/nonexistent/tmp"),
        (TRAIN, "TMPDIR", "/proc", "/proc"),
        (UP, "TMPDIR", "/dev/null", "/dev/null"),
        (UP, "TAPO_HOME", "/proc/tapo", "/proc/tapo"),
        (UP, "TAPO_CACHE", "/proc/cache", "/proc/cache/nano"),
    ],
)
def test_a_folder_that_cannot_be_written_to(
    command: list[str], variable: str, folder: str, named: str, tmp_path: Path
) -> None:
    line = refused(command, tmp_path, {variable: folder})
    assert line.startswith(f"tapo: {named}: ")
    assert variable in line, "what to set"


@pytest.mark.parametrize("command", [TRAIN, UP], ids=lambda command: command[0])
def test_a_working_directory_that_is_gone_or_cannot_be_written_to(command: list[str], tmp_path: Path) -> None:
    gone = f"import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n{TAPO}"
    done = subprocess.run(
        [sys.executable, "-c", gone, *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("tapo: the working directory is gone")
    elsewhere = {"HOME": str(tmp_path), "TAPO_HOME": str(tmp_path)}
    assert refused(command, Path("/proc/self/fdinfo"), elsewhere).startswith("tapo: runs")


def test_what_root_may_do_is_tried_and_not_asked(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder in (Path("/proc/self/x"), Path("/proc/self"), file / "x", file):
        with pytest.raises(UserError, match=str(folder)):
            check_folder(folder)
        with pytest.raises(UserError, match=str(folder)):
            make_folder(folder)
    check_folder(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match="set TAPO_CACHE"):
        prepare(NanoConfig(), file / "cache")
