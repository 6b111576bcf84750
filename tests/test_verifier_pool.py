"""The symbolic tier's workers: killed, starved, asked from many threads."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tapo_core.config_verifier import VerifierConfig
from tapo_core.errors import TransientError
from tapo_core.records import VerificationOutcome
from tapo_core.verification import pool as pool_module
from tapo_core.verification.base import Question
from tapo_core.verification.math import MathVerifier
from tapo_core.verification.pool import WorkerPool

#: Gets past the guards and keeps a worker busy for longer than any test lasts.
ENDLESS = {"prediction": "(x+y+z+1)^{300}", "gold": "(x+y+z)^{300}", "boxed": True}
MEMORY = 1 << 30

Made = Callable[..., WorkerPool]


def question(number: int) -> dict[str, Any]:
    return {"prediction": f"{number} + x", "gold": f"x + {number % 7}", "boxed": True}


@pytest.fixture
def make() -> Iterator[Made]:
    made: list[WorkerPool] = []

    def make(size: int = 1, cpu_seconds: float = 30.0, memory: int = MEMORY) -> WorkerPool:
        made.append(WorkerPool(size, cpu_seconds, memory))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def workers() -> list[psutil.Process]:
    """Of this process, whether they wait or work."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it just ended
            if "worker import main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def busiest() -> psutil.Process:
    """The worker that has computed for more than a second, when there is one."""
    while True:
        for worker in workers():
            if worker.cpu_times().user > 3:
                return worker
        time.sleep(0.05)


def test_eight_threads_get_what_one_gets(make: Made) -> None:
    pool = make(size=2)
    questions = [question(number) for number in range(48)]
    alone = [answer["outcome"] for answer in pool.ask(questions)]
    assert alone == ["correct" if number < 7 else "wrong" for number in range(48)]
    with ThreadPoolExecutor(8) as threads:
        together = list(
            threads.map(lambda part: [a["outcome"] for a in pool.ask(part)], [questions[i::8] for i in range(8)])
        )
    assert [together[i % 8][i // 8] for i in range(48)] == alone
    assert len(workers()) <= 3, "two, and a spare"


def test_a_question_that_takes_too_long_is_unknown_and_the_next_one_is_not(make: Made) -> None:
    pool = make(cpu_seconds=1.0)
    slow, quick = pool.ask([ENDLESS, question(3)])
    assert (slow["outcome"], slow["reason"]) == ("unknown", "timeout: 1 s of processor time")
    assert quick["outcome"] == "correct"


def test_a_worker_that_is_killed_from_outside_costs_no_verdict(make: Made) -> None:
    pool = make()
    pool.ask([question(1)])
    for worker in workers():
        worker.kill()
    assert [answer["outcome"] for answer in pool.ask([question(n) for n in range(4)])] == ["correct"] * 4


def test_a_question_that_kills_its_worker_twice_is_unknown(make: Made) -> None:
    pool = make()
    pool.ask([question(1)])
    answers: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answers.extend(pool.ask([ENDLESS, question(2)])))
    asking.start()
    for _ in range(2):
        victim = busiest()
        victim.kill()
        psutil.wait_procs([victim])
    asking.join()
    assert [(a["outcome"], a.get("reason")) for a in answers] == [("unknown", "the worker died"), ("correct", None)]


def test_a_worker_without_memory_gives_no_verdict(make: Made) -> None:
    answer = make(memory=1 << 20, cpu_seconds=2.0).ask([question(9)])[0]
    assert answer["outcome"] == "unknown"
    # ANTLR takes an error for one of the text, and may go on with it for as long as it is let.
    assert answer["reason"] in ("memory", "the worker died", "timeout: 2 s of processor time")


def test_a_difference_is_unknown_where_memory_was_almost_used_up(make: Made) -> None:
    worker = pool_module._Worker(MEMORY)
    worker.wait_until_ready()
    process = psutil.Process(worker._process.pid)
    assert process.rlimit(psutil.RLIMIT_AS) == (MEMORY, MEMORY)
    used = process.memory_info().vms
    worker.end()
    equal, different = make(memory=used + used // 20).ask([question(3), question(9)])
    assert equal["outcome"] == "correct", "that is no accident"
    assert (different["outcome"], different["reason"]) == ("unknown", "memory")


def test_workers_that_cannot_start_are_an_error_that_says_why(make: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_MAIN", "raise SystemExit('there is no math-verify')")
    with pytest.raises(TransientError, match="the verifier's workers cannot start: there is no math-verify"):
        make().ask([question(1)])
    assert workers() == []


def test_a_full_disk_is_nothing_to_a_worker(make: Made, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.suppress(OSError), open(small_disk / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "more").write_bytes(b"x" * 4096)
    monkeypatch.chdir(small_disk)
    for name in ("TMPDIR", "HOME"):
        monkeypatch.setenv(name, str(small_disk))
    assert [answer["outcome"] for answer in make().ask([question(2), question(9)])] == ["correct", "wrong"]


def test_nobody_is_left_when_the_pool_is_closed(make: Made) -> None:
    pool = make(size=2)
    pool.ask([question(1), question(2)])
    started = workers()
    assert started
    pool.close()
    assert psutil.wait_procs(started, timeout=30)[1] == []
    assert pool.ask([question(1)])[0]["outcome"] == "correct", "and it can be asked again"


def test_a_worker_ends_when_its_parent_is_gone(make: Made) -> None:
    worker = pool_module._Worker(MEMORY)
    worker.wait_until_ready()
    process = psutil.Process(worker._process.pid)
    assert worker._process.stdin is not None
    worker._process.stdin.close()
    assert process.wait(30) == 0
    worker.end()


def test_nested_latex_by_the_dozen_gives_as_many_unknowns() -> None:
    """Each asks for all memory, all time or all depth there is; those beside them are judged."""
    bombs = [r"\boxed{" + r"\sqrt{1+" * depth + "x" + "}" * depth + "}" for depth in (50, 500, 5000)]
    bombs += [r"\boxed{(x+y+z+1)^{300}}"] * 3
    verifier = MathVerifier(VerifierConfig(cpu_seconds=1.0), workers=2)
    try:
        verdicts = verifier.verify([Question("", "x + 7", text) for text in [*bombs, r"\boxed{7+x}", r"\boxed{8+x}"]])
    finally:
        verifier.close()
    outcomes = [verdict.outcome for verdict in verdicts]
    unknown = VerificationOutcome.UNKNOWN
    assert outcomes == [unknown] * 6 + [VerificationOutcome.CORRECT, VerificationOutcome.WRONG]
    assert all(verdict.reward is None and verdict.reason for verdict in verdicts[:6])
