"""The symbolic tier's workers: a few processes that are fed one question at a time, watched, and killed when they take too long.

Works the same from any thread and any process, Prefect's and Ray's too: a worker is a fresh Python of its own (not a fork, no
signals here), and ends when this process closes its standard input, by dying if need be.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from tapo_core.errors import TransientError
from tapo_core.heartbeat import beat
from tapo_core.text import one_line

_ROOT = str(Path(__file__).resolve().parents[2])
_MAIN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from tapo_core.verification.worker import main; main()"
#: Seconds until a new worker must have imported what it needs, on a busy machine.
_STARTS = 120.0
#: A worker may take so many times its processor time by the clock.
_CLOCK = 10.0
_LOOK = 0.05  #: seconds between two looks at a worker's processor time
_READ = 65536


class _Gone(Exception):
    """A worker gave no answer. The message says why; `again`: on an idle machine it might."""

    def __init__(self, reason: str, again: bool) -> None:
        super().__init__(reason)
        self.again = again


class _Worker:
    def __init__(self, memory_bytes: int) -> None:
        # -P and -s: nothing is imported from where this process happens to be, or from a home folder.
        command = [sys.executable, "-P", "-s", "-c", _MAIN, _ROOT, str(memory_bytes)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # nothing is left to write when it has died
            cwd="/",
            # The same order of hashed things in every worker: the same verdicts.
            env={"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
            start_new_session=True,  # Ctrl-C is for this process
        )
        self._buffer = b""
        self._ready = False

    def wait_until_ready(self) -> None:
        """Raises `_Gone` if it cannot start."""
        if not self._ready:
            self._read(_STARTS, None)
            self._ready = True

    def ask(self, question: dict[str, Any], cpu_seconds: float) -> dict[str, Any]:
        """Its answer. Raises `_Gone`; the worker must be ended then."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({**question, "cpu_seconds": cpu_seconds}).encode() + b"\n")
        except OSError as error:
            raise _Gone("the worker died", again=True) from error
        return self._read(cpu_seconds * _CLOCK, cpu_seconds)

    def _read(self, seconds: float, cpu_seconds: float | None) -> dict[str, Any]:
        """The next line."""
        assert self._process.stdout is not None
        readable = select.poll()
        readable.register(self._process.stdout, select.POLLIN)
        end = time.monotonic() + seconds
        until = None if cpu_seconds is None else self._cpu_seconds() + cpu_seconds
        while b"\n" not in self._buffer:
            if readable.poll(1000 * _LOOK):
                piece = os.read(self._process.stdout.fileno(), _READ)
                if not piece:
                    raise _Gone("the worker died", again=True)
                self._buffer += piece
            elif until is not None and self._cpu_seconds() > until:
                raise _Gone(f"timeout: {cpu_seconds:g} s of processor time", again=False)
            elif time.monotonic() > end:
                raise _Gone(f"timeout: {seconds:g} s by the clock", again=True)
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _cpu_seconds(self) -> float:
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.Error:
            return 0.0  # it just died; its end is read next
        return float(times.user + times.system)

    def end(self) -> str:
        """Kill it. Returns the last line that it said on standard error."""
        self._process.kill()
        with self._process:  # closes the pipes, and waits
            assert self._process.stderr is not None
            said = self._process.stderr.read().decode(errors="replace").strip()
        return said.splitlines()[-1] if said else ""


class WorkerPool:
    """So many workers, and one more that is warm for when one is killed. None is started before the first question."""

    def __init__(self, size: int, cpu_seconds: float, memory_bytes: int) -> None:
        self._size = size
        self._cpu_seconds = cpu_seconds
        self._memory_bytes = memory_bytes
        self._slots = threading.Semaphore(size)
        self._alone = threading.Lock()
        self._guard = threading.Lock()  # of what follows
        self._idle: deque[_Worker] = deque()
        self._n_alive = 0

    def ask(self, questions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """An answer for each question, in order. One that no worker could give is ``{"outcome": "unknown", "reason": ...}``.

        A question whose worker died, or had no processor to compute on, is asked once more while nothing else is computed here.

        Raises:
            TransientError: no worker can be started.
        """
        if not questions:
            return []
        with ThreadPoolExecutor(min(self._size, len(questions))) as threads:
            answers = list(threads.map(self._ask_in_turn, questions))
        for index, answer in enumerate(answers):
            if answer.get("again"):
                answers[index] = self._ask_alone(questions[index])
        return answers

    def close(self) -> None:
        """End the workers that wait. The next question starts new ones."""
        with self._guard:
            ended, self._n_alive = list(self._idle), self._n_alive - len(self._idle)
            self._idle.clear()
        for worker in ended:
            worker.end()

    def _ask_in_turn(self, question: dict[str, Any]) -> dict[str, Any]:
        with self._slots:
            return self._ask(question)

    def _ask_alone(self, question: dict[str, Any]) -> dict[str, Any]:
        with self._alone, contextlib.ExitStack() as all_slots:
            for _ in range(self._size):
                all_slots.enter_context(self._slots)
            return self._ask(question)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        beat()
        worker = self._take()
        begun = time.perf_counter()
        try:
            answer = worker.ask(question, self._cpu_seconds)
        except BaseException as error:
            self._end(worker)
            if not isinstance(error, _Gone):
                raise
            answer = {"outcome": "unknown", "answer": None, "reason": str(error), "again": error.again}
            return answer | {"milliseconds": 1000 * (time.perf_counter() - begun)}
        if answer.get("reason") == "memory":
            self._end(worker)
        else:
            with self._guard:
                self._idle.append(worker)
        return answer | {"milliseconds": 1000 * (time.perf_counter() - begun)}

    def _take(self) -> _Worker:
        """A worker that is ready.

        Raises:
            TransientError: the second one in a row could not start.
        """
        said = ""
        for _ in range(2):
            with self._guard:
                worker = self._idle.pop() if self._idle else None
                self._n_alive += worker is None
                is_spare_missing = self._n_alive <= self._size
                self._n_alive += is_spare_missing
            worker = worker or self._start()
            if is_spare_missing:
                warm = self._start()
                with self._guard:
                    self._idle.appendleft(warm)  # taken after those that have shown that they work
            try:
                worker.wait_until_ready()
            except _Gone as error:
                said = self._end(worker) or str(error)
            else:
                return worker
        raise TransientError(f"the verifier's workers cannot start: {one_line(said)}")

    def _start(self) -> _Worker:
        """A new one of those that were counted already."""
        try:
            return _Worker(self._memory_bytes)
        except BaseException:
            with self._guard:
                self._n_alive -= 1
            raise

    def _end(self, worker: _Worker) -> str:
        with self._guard:
            self._n_alive -= 1
        return worker.end()
