"""Who works on a run, and when it last got ahead: a small file in the run's folder, for those who find the run locked."""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

FILE = "holder.json"

#: Seconds without a new file after which its writer, which writes one every ten seconds, does not run.
SILENT = 120.0

#: Seconds without progress from which on a person is told how to look into it.
SLOW = 900.0

_AGAIN = "start this again: it continues where the other one stopped"


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that works on a run. Times are seconds since 1970, by the clock of its machine."""

    pid: int
    host: str
    place: str  #: what it works on, in words: "update_policy of iteration 3"
    progress_at: float  #: the last sign of progress
    limit_seconds: float  #: without progress for so long, it ends itself
    written_at: float
    ended: str | None = None  #: why it ended itself, if it did

    @classmethod
    def read(cls, run_folder: Path) -> "Holder | None":
        """What the last holder left; None if it left nothing, as most do that ended well."""
        try:
            return cls(**json.loads((run_folder / FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, run_folder: Path) -> None:
        """Replace the file. It is not forced to the disk: a machine that dies has no holder any more."""
        temporary = run_folder / f".{FILE}.tmp"
        temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        os.replace(temporary, run_folder / FILE)

    @property
    def here(self) -> bool:
        """Whether it is a process of this machine (or container)."""
        return self.host == socket.gethostname()

    @property
    def state(self) -> str:
        """What it does now, in words."""
        ago = max(0.0, time.time() - self.progress_at)
        if self._is_stopped:
            return f"it is stopped by a signal, as by Ctrl-Z ({self.place})"
        if self._is_silent:
            return f"it is stuck: it does not even write {FILE} any more ({self.place})"
        if ago > self.limit_seconds:
            return f"it is stuck: no progress for {_duration(ago)} ({self.place})"
        if ago > SLOW:
            limit = _duration(self.limit_seconds)
            return f"it may be stuck: no progress for {_duration(ago)} ({self.place}; after {limit} it ends itself)"
        return f"{self.place}, last progress {_duration(ago)} ago"

    @property
    def is_stuck(self) -> bool:
        """Whether a person should look into it."""
        return self._is_stopped or self._is_silent or time.time() - self.progress_at > min(SLOW, self.limit_seconds)

    def told(self, then: str) -> str:
        """What it does, and what a person can do if it is stuck, in words. `then`: what to do once it has ended."""
        if not self.is_stuck:
            return self.state
        if self._is_stopped:
            return f"{self.state}; kill -CONT {self.pid} lets it go on"
        where = "" if self.here else f"on {self.host} "
        return (
            f"{self.state}; {where}kill -USR2 {self.pid} makes it write the stacks of its threads to its standard error (with "
            f"tapo up: worker.log), kill -9 {self.pid} ends it without any loss; then {then}"
        )

    @property
    def _is_silent(self) -> bool:
        return time.time() - self.written_at > SILENT

    @property
    def _is_stopped(self) -> bool:
        try:
            return self.here and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return False


def told(run_folder: Path, lock: Path, pid: str) -> str:
    """Whose a run's lock is that somebody has, what that process does, and what to do, in words. `pid`: as the lock says."""
    wait = f"wait until it has ended, or stop it, then {_AGAIN}"
    holder = Holder.read(run_folder)
    if holder is None or str(holder.pid) != pid:  # it has just begun, or it does not train
        return f"another process (PID {pid}) works on this run; {wait}"
    openers = _open_by(lock) if holder.here else []
    if openers and pid not in openers:
        return (
            f"the process that worked on this run (PID {pid}) is dead, but a process that it started still has its lock: "
            f"kill -9 {' '.join(openers)} ends it; then {_AGAIN}"
        )
    named = f"PID {pid}" if holder.here else f"PID {pid} on {holder.host}"
    text = f"another process ({named}) works on this run: {holder.told(_AGAIN)}"
    return text if holder.is_stuck else f"{text}; {wait}"


def _open_by(file: Path) -> list[str]:
    """PIDs of the processes of this machine that have a file open, as far as this user may know."""
    place, found = str(file.resolve()), []
    for process in psutil.process_iter():
        try:
            if any(opened.path == place for opened in process.open_files()):
                found.append(str(process.pid))
        except (psutil.Error, OSError):
            continue  # it ended meanwhile, or is somebody else's
    return found


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
