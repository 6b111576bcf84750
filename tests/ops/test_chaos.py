"""Whatever dies, a retry by the API finishes the run: nothing that was done is done again, and the policy is the one that an
undisturbed run ends with, bit for bit.

One run of real stages on a real server and worker. It is killed in each of its stages, with and without its worker, in the middle
of sampling and of optimizer steps, told to stop, and left without a server. The engines live in the process of the flow run, so
killing that while one of them works is killing the engine.
"""

import itertools
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

import psutil
import pytest

from flows.repair import processes_of_flow_runs
from tapo_core.records import PolicyVersion
from tapo_core.store import StageCommit, load, verified_commits
from tapo_core.store.connection import ledger_path
from tapo_core.store.ledger import read_ledger
from tests.flows.conftest import NANO
from tests.ops.conftest import ROOT, Operated, wait_until
from tests.ops.operating import HANGS, STAGES, done_once, retry, wait_for_state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

ITERATIONS = 6
SETTINGS = [*NANO, "update.epochs=4"]  # an update long enough to be hit in its midst
_BEGUN = re.compile(r"iteration (\d+): (\w+)\b")
OF_THE_TIME = ("start", "update_policy")
Place = tuple[int, str]  #: iteration, stage


def begun(text: str) -> Counter[Place]:
    """The stages that a log says were begun. One that is in the store is not begun."""
    return Counter((int(iteration), stage) for iteration, stage in _BEGUN.findall(text))


class Chaos:
    """A flow run, and what was done to it."""

    def __init__(self, operated: Operated, flow_run_id: str, seconds: dict[Place, float]) -> None:
        self.operated = operated
        self.flow_run_id = flow_run_id
        self.run = operated.folder / "runs" / "chaos"
        self.log = operated.folder / ".tapo" / "worker.log"
        self.hits: Counter[Place] = Counter()
        self._seconds = seconds  #: that each stage took in the undisturbed run
        self._random = random.Random(5)
        self._processes: list[psutil.Process] = []

    def strike(self, place: Place, blow: Callable[[], None], first: float = 0.0, last: float = 0.3) -> None:
        """Wait until a stage begins that is not done yet; strike after `first` to `last` of the time that it takes."""
        seen = self.log.stat().st_size
        self._processes = []
        wait_until(self._finds_processes, HANGS)  # now: to find them takes longer than a short stage

        def has_begun() -> bool:
            with self.log.open("rb") as log:
                log.seek(seen)
                return begun(log.read().decode(errors="replace"))[place] > 0

        wait_until(has_begun, HANGS, every=0.002)
        time.sleep(self._random.uniform(first, last) * self._seconds[place])
        blow()
        self.hits[place] += 1
        assert not self.has_done(place), "the blow came too late"

    def _finds_processes(self) -> bool:
        self._processes = processes_of_flow_runs().get(self.flow_run_id, [])
        return bool(self._processes)

    def signal(self, number: int) -> None:
        for process in self._processes:
            process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        psutil.wait_procs(self._processes, timeout=30)
        assert not self.is_alive()

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)
        assert psutil.wait_procs(self._processes, timeout=60)[1] == []

    def kill_with_worker(self) -> None:
        os.kill(self.operated.pid("worker"), signal.SIGKILL)  # first, or it would tell
        self.kill()

    def retry(self) -> None:
        retry(self.operated, self.flow_run_id)

    def state(self) -> str:
        return str(self.operated.flow_run(self.flow_run_id)["state"]["name"])

    def is_alive(self) -> bool:
        return self.flow_run_id in processes_of_flow_runs()

    def has_done(self, place: Place) -> bool:
        return place in [(entry.iteration, entry.stage) for entry in read_ledger(ledger_path(self.run))]

    def up(self) -> str:
        done = self.operated.tapo("up")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def begun(self) -> Counter[Place]:
        """How often each stage was begun. The worker's log has what its children say, at once; the server has it a little later,
        but also from a child whose worker is gone.
        """
        wanted = {"logs": {"flow_run_id": {"any_": [self.flow_run_id]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        told: list[str] = []
        while found := self.operated.call("POST", "logs/filter", {**wanted, "offset": len(told)}):
            told += [line["message"] for line in found]
        return begun("\n".join(told)) | begun(self.log.read_text(errors="replace"))


def places(commits: Sequence[StageCommit]) -> list[Place]:
    return [(commit.iteration, commit.stage) for commit in commits]


@pytest.fixture(scope="module")
def undisturbed(operated: Operated) -> list[StageCommit]:
    """The commits of the same run in a folder where nobody kills it."""
    settings = [*SETTINGS, "run.name=chaos", "run.output_dir=undisturbed", f"run.iterations={ITERATIONS}"]
    options = [part for setting in settings for part in ("--set", setting)]
    done = operated.tapo("train", str(ROOT / "configs" / "nano_tapo.toml"), *options)
    assert done.returncode == 0, done.stderr
    return verified_commits(operated.folder / "undisturbed" / "chaos")


def test_whatever_dies_a_retry_finishes_the_run(operated: Operated, undisturbed: list[StageCommit]) -> None:
    times = [datetime.fromisoformat(commit.committed_at).timestamp() for commit in undisturbed]
    lasted = [later - earlier for earlier, later in itertools.pairwise(times)]
    seconds = dict(zip(places(undisturbed)[1:], lasted, strict=True))
    answer = operated.start("train", preset="nano-tapo", name="chaos", iterations=ITERATIONS, overrides=SETTINGS)
    assert answer.status_code == 201, answer.text
    chaos = Chaos(operated, answer.json()["id"], seconds)

    # kill -9 in each stage: the worker tells.
    for stage in STAGES:
        chaos.strike((1, stage), chaos.kill)
        wait_for_state(operated, chaos.flow_run_id, "Crashed")
        chaos.retry()

    # In the middle of what the engines do: sampling, and optimizer steps.
    for stage in ("sample", "diagnose_and_correct", "update_policy"):
        chaos.strike((2, stage), chaos.kill, first=0.3, last=0.7)
        wait_for_state(operated, chaos.flow_run_id, "Crashed")
        chaos.retry()

    # SIGTERM, as when somebody stops the machine in good order.
    chaos.strike((3, "sample"), chaos.terminate)
    wait_for_state(operated, chaos.flow_run_id, "Crashed")
    chaos.retry()

    # The worker and the flow run: nobody is left to tell, but for `tapo up`.
    chaos.strike((3, "update_policy"), chaos.kill_with_worker)
    assert "flow run chaos had no process any more: Crashed" in chaos.up()
    chaos.retry()

    # The worker alone: its flow run lives on, though nobody reads what it prints.
    chaos.strike((4, "sample"), lambda: os.kill(operated.pid("worker"), signal.SIGKILL))
    del chaos.hits[4, "sample"]
    wait_until(lambda: chaos.has_done((4, "update_policy")), HANGS, every=0.01)
    # Then the server: whatever is not done when it is back, a retry does. `tapo up` leaves a flow run alone that lives.
    server = psutil.Process(operated.pid("server"))
    server.kill()
    server.wait(30)
    assert "no process any more" not in chaos.up() or not chaos.is_alive()
    wait_until(lambda: not chaos.is_alive(), HANGS)
    wait_until(lambda: chaos.state() in ("Completed", "Crashed", "Failed"), HANGS)
    retried = chaos.state() != "Completed"
    if retried:
        chaos.retry()
    wait_for_state(operated, chaos.flow_run_id, "Completed")

    commits = verified_commits(chaos.run)
    assert done_once(chaos.run, ITERATIONS)
    repeated = Counter({place: n - 1 for place, n in chaos.begun().items() if n > 1})
    assert chaos.hits <= repeated, "once more for each blow"
    # Nothing else was begun a second time, but for what the flow run was at when it had lost its server, if it ended with that.
    assert (repeated - chaos.hits).total() <= retried
    assert {stage for _, stage in chaos.hits} == set(STAGES)

    # All rows and the policies are those of the undisturbed run. (The start knows when it was, and the update the bytes of the
    # optimizer's file, which differ though what is in it does not.)
    content, found = (
        {
            place: commit.content_digest
            for place, commit in zip(places(of), of, strict=True)
            if place[1] not in OF_THE_TIME
        }
        for of in (undisturbed, commits)
    )
    assert found == content
    same = [
        {version.iteration: version.checkpoint_digest for version in load(run, PolicyVersion)}
        for run in (chaos.run, operated.folder / "undisturbed" / "chaos")
    ]
    assert same[0] == same[1]
    assert len(set(same[0].values())) == ITERATIONS + 1
    assert operated.tapo("status").returncode == 0
