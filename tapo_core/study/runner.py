"""The runs of a study, each a `tapo train` in a process of its own, a few at one time.

Nothing is kept about who ran what: how far a run is stands in its own ledger. So a study that was interrupted, however, is
started again with the same command, and what is finished is not done again.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from statistics import median

from tapo_core.config_file import write_toml
from tapo_core.errors import ConfigError
from tapo_core.files import make_folder, publish_text
from tapo_core.revisions import changed_keys, stored_history
from tapo_core.store.connection import ledger_path
from tapo_core.store.snapshot import snapshot_commits
from tapo_core.study.plan import PlannedRun

_POLL_SECONDS = 0.2
_STOP_SECONDS = 60.0  #: that a run may take to end by itself
_LOG_LINES = 12  #: of a run that failed

Tell = Callable[[str], None]


class State(StrEnum):
    """How far a run is."""

    NEW = "new"
    UNFINISHED = "unfinished"
    DONE = "done"  #: its last iteration is evaluated and committed
    OTHER = "other settings"  #: a run of this name was made or evaluated with another configuration


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that ended before it was finished."""

    run: PlannedRun
    exit_code: int
    log: Path
    last_lines: str


def state_of(run: PlannedRun) -> State:
    """How far a run is, by its ledger; nothing is opened that the run could be writing.

    Raises:
        UserError, IntegrityError: the run's store cannot be read.
    """
    if not ledger_path(run.folder).is_file():
        return State.NEW
    commits = snapshot_commits(run.folder)
    history = stored_history(run.folder)
    made_with = [] if history is None else history.configurations
    # What a study measures depends on how its runs are evaluated, too.
    if any(
        change.kind.in_digest or change.key.startswith("evaluation.")
        for config in made_with
        for change in changed_keys(config, run.config)
    ):
        return State.OTHER
    last = run.config.run.iterations
    return State.DONE if any(c.stage == "evaluate" and c.iteration == last for c in commits) else State.UNFINISHED


def iterations_of(run: PlannedRun) -> int:
    """How many iterations of a run are committed with the policy that came out."""
    if state_of(run) is State.NEW:
        return 0
    return max((c.iteration for c in snapshot_commits(run.folder) if "policy_version" in c.row_counts), default=0)


def minutes_of(run_folder: Path) -> float | None:
    """How long a run took: its start, and as many iterations as it has of the median length (so that no pause counts)."""
    ended = {}
    commits = snapshot_commits(run_folder)
    for commit in commits:
        ended[commit.iteration] = datetime.fromisoformat(commit.committed_at)
    lengths = [(ended[n] - ended[n - 1]).total_seconds() for n in ended if n - 1 in ended]
    if not lengths:
        return None
    start = (ended[0] - datetime.fromisoformat(commits[0].committed_at)).total_seconds()
    return (start + len(lengths) * median(lengths)) / 60.0


def refuse_other_settings(runs: Sequence[PlannedRun]) -> None:
    """Nothing begins while a run in the study's folder was made with other settings.

    Raises:
        ConfigError: naming them.
    """
    other = [run for run in runs if state_of(run) is State.OTHER]
    if other:
        raise ConfigError(
            f"{len(other)} runs were made with another configuration than the study has now: "
            f"{' '.join(str(run.folder) for run in other)}; move these folders away, or change study.name"
        )


def make_runs(runs: Sequence[PlannedRun], study_folder: Path, parallel: int, tell: Tell) -> list[Failure]:
    """Make the runs that are not done, in their order, `parallel` at one time; those that failed.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; the runs were ended before.
    """
    waiting = deque(run for run in runs if state_of(run) is not State.DONE)
    n_waiting = len(waiting)
    free = set(range(parallel))
    busy: dict[int, _Job] = {}
    failures: list[Failure] = []
    n_ended = 0
    with _asked_to_stop() as asked:
        try:
            while (waiting or busy) and not asked.is_set():
                while waiting and free and not asked.is_set():
                    slot = min(free)
                    free.remove(slot)
                    busy[slot] = _begin(waiting.popleft(), study_folder, slot, parallel)
                asked.wait(_POLL_SECONDS)
                for slot in [slot for slot, job in busy.items() if job.process.poll() is not None]:
                    job = busy.pop(slot)
                    free.add(slot)
                    n_ended += 1
                    failure = _failure(job)
                    minutes = (time.monotonic() - job.began) / 60.0
                    told = f"done in {minutes:.1f} min"
                    if failure is not None:
                        failures.append(failure)
                        told = f"FAILED (exit code {failure.exit_code}), see {failure.log}"
                    tell(f"{n_ended}/{n_waiting} {job.run.name}: {told}")
        finally:
            _stop([job.process for job in busy.values()])
    if asked.is_set():
        raise KeyboardInterrupt
    return failures


def _failure(job: "_Job") -> Failure | None:
    """What became of a run whose process has ended, if it is not done."""
    code = job.process.returncode
    if code == 0 and state_of(job.run) is State.DONE:
        return None
    return Failure(job.run, code, job.log, _last_lines(job.log))


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set. As exceptions they could come while a run has begun and nobody knows of it yet."""
    asked = threading.Event()
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Interrupt runs as Ctrl-C does, so that each ends the Prefect server that it started; kill those that do not end."""
    for process in processes:
        with suppress(ProcessLookupError):  # it ended by itself meanwhile
            os.killpg(process.pid, signal.SIGINT)
    until = time.monotonic() + _STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@dataclass(frozen=True, slots=True)
class _Job:
    run: PlannedRun
    process: subprocess.Popen[bytes]
    log: Path
    began: float


def _begin(run: PlannedRun, study_folder: Path, slot: int, parallel: int) -> _Job:
    """Start the process of a run, in a session of its own: Ctrl-C reaches it through us, once."""
    file = study_folder / "configs" / f"{run.name}.toml"
    log = study_folder / "logs" / f"{run.name}.log"
    publish_text(file, write_toml(run.tree))
    make_folder(log.parent)
    with log.open("ab") as opened:
        process = subprocess.Popen(
            [sys.executable, "-m", "tapo_core", "train", str(file)],
            env={**os.environ, **_environment(study_folder, slot, parallel)},
            stdin=subprocess.DEVNULL,
            stdout=opened,
            stderr=opened,
            start_new_session=True,
        )
    return _Job(run, process, log, time.monotonic())


def _environment(study_folder: Path, slot: int, parallel: int) -> dict[str, str]:
    """Each run its share of the cores. Without a Prefect server each starts its own, whose database no other one uses."""
    settings = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // parallel))}
    if "PREFECT_API_URL" not in os.environ:
        home = study_folder / "prefect" / str(slot)
        make_folder(home)  # the server does not
        settings["PREFECT_HOME"] = str(home.absolute())
    return settings


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:])
