"""Processes that outlive the command that started them, found again by PID and start time: a PID alone may be someone else's."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tapo_core.files import publish_text

#: Environment variable of the worker: the file that it prints into.
WORKER_LOG = "TAPO_WORKER_LOG"

#: The kernel's start time of a process is kept in ticks since boot; the clock it is added to is corrected now and then.
_SAME_START_SECONDS = 2.0


class Daemon:
    """One process: ``<name>.json`` in its folder says which, ``<name>.log`` is what it prints."""

    def __init__(self, folder: Path, name: str) -> None:
        """Nothing is read or started yet."""
        self.name = name
        self.log = folder / f"{name}.log"
        self._file = folder / f"{name}.json"

    @property
    def record(self) -> dict[str, Any]:
        """What was noted when it was last started; empty if it never was."""
        try:
            found: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return found

    @property
    def process(self) -> psutil.Process | None:
        """The process, if it lives."""
        record = self.record
        if "pid" not in record:
            return None
        try:
            process = psutil.Process(record["pid"])
            same = abs(process.create_time() - record["started"]) < _SAME_START_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def start(self, command: Sequence[str], env: Mapping[str, str], folder: Path, **notes: Any) -> psutil.Process:
        """Start it in a session of its own, so that Ctrl-C in the terminal does not reach it; `notes` go into its record."""
        with self.log.open("ab") as log, _interruptible():
            started = subprocess.Popen(
                command,
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process = psutil.Process(started.pid)
        record = {**notes, "pid": process.pid, "started": process.create_time()}
        publish_text(self._file, [json.dumps(record)])
        return process

    def stop(self, seconds: float) -> bool:
        """Ask it to end, and kill it when it has not after `seconds`. False: it was not running. What was noted stays."""
        process = self.process
        if process is None:
            return False
        stop_processes([process], seconds)
        return True


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """What is started meanwhile does not ignore SIGINT, as a script's ``command &`` does: Prefect's server ends by it."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def stop_processes(processes: Sequence[psutil.Process], seconds: float) -> None:
    """Ask processes to end (SIGTERM), and kill those that have not after `seconds`."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=seconds)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=seconds)


def owner_of_port(port: int) -> str:
    """Who listens on a TCP port of this machine, in words."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            with contextlib.suppress(psutil.Error):
                return f"PID {connection.pid} ({psutil.Process(connection.pid).name()})"
    return "a process of another user" if os.getuid() else "another process"
