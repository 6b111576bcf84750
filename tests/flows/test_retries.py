"""A stage that fails: tried again or not, with less memory, within its time, and what is said when it gives up."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect.settings import PREFECT_API_URL
from safetensors.torch import load_file

from flows.train import train
from tapo_core.engines.openrlhf_trainer import OpenRlhfTrainer
from tapo_core.engines.vllm_sampler import VllmSampler
from tapo_core.errors import StageGaveUpError, TransientError, UserError
from tapo_core.progress import LogReporter, reporting
from tapo_core.records import PolicyVersion, Rollout, RolloutKind, Verification
from tapo_core.stages import verify
from tapo_core.store import load, verified_commits
from tasks.resources import open_run
from tests.flows.conftest import ROOT, Configure

pytestmark = pytest.mark.usefixtures("prefect_server")
GRPO = ('method="grpo"', "limits.retry_seconds=0")


def test_an_error_that_may_pass_is_retried_on_a_new_engine(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, failures, engines = VllmSampler.sample, [TransientError("the engine died")], set()

    def sample(self: VllmSampler, *args: object) -> object:
        engines.add(id(self._engine))
        if failures:
            raise failures.pop()
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(VllmSampler, "sample", sample)
    config = configure("retried", *GRPO)
    train(config)
    stages = [(commit.iteration, commit.stage) for commit in verified_commits(config.run_folder)]
    assert stages[-1] == (1, "evaluate")
    assert len(engines) == 2
    failures.append(UserError("bad input"))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="bad input"):
        train(configure("failed", *GRPO))
    assert failures == [], "not tried again"


def test_a_stage_that_gives_up_says_what_to_do_and_goes_on_later(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def update(*_: object) -> object:
        attempts.append(time.monotonic())
        raise TransientError("rank 1 is gone")

    config = configure("gave-up", *GRPO, "limits.retries=2", "limits.retry_seconds=0.5")
    with monkeypatch.context() as patch:
        patch.setattr(OpenRlhfTrainer, "update", update)
        with pytest.raises(StageGaveUpError) as told:
            train(config)
    assert "update_policy of iteration 1 gave up after 3 attempts: rank 1 is gone. Nothing is lost: retry" in str(
        told.value
    )
    assert len(attempts) == 3
    assert attempts[1] - attempts[0] >= 0.5
    assert attempts[2] - attempts[1] >= 1.5, "three times as long"
    before = [commit.chain_digest for commit in verified_commits(config.run_folder)]
    train(config)
    commits = verified_commits(config.run_folder)
    assert [commit.chain_digest for commit in commits][: len(before)] == before
    assert commits[len(before)].stage == "update_policy"


def test_an_update_without_enough_memory_takes_smaller_micro_batches(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tokens, rate = "update.micro_batch_tokens=4096", "update.warmup_steps=0"
    plain = configure("plain", tokens, rate)
    train(plain)

    original, sizes = OpenRlhfTrainer._forward, []

    def forward(self: OpenRlhfTrainer, ids: torch.Tensor, *args: object, **kwargs: object) -> object:
        sizes.append(ids.numel())
        if ids.numel() > 1024:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(self, ids, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(OpenRlhfTrainer, "_forward", forward)
    spared = configure("plain", tokens, rate, "limits.retry_seconds=0", f"run.output_dir={tmp_path / 'spared'}")
    train(spared)
    assert max(sizes) > 1024, "memory did not suffice"
    told = []
    for config in (plain, spared):
        (commit,) = [c for c in verified_commits(config.run_folder) if c.stage == "update_policy"]
        told.append(commit.manifest["micro_batch_tokens"])
    assert told == [4096, 1024]
    kind = RolloutKind.TRAINING
    assert load(plain.run_folder, Rollout, kind=kind) == load(spared.run_folder, Rollout, kind=kind)
    weights = [
        load_file(config.run_folder / "policies" / "000001" / "hf" / "model.safetensors") for config in (plain, spared)
    ]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=1e-5)
    first = load_file(Path(load(plain.run_folder, PolicyVersion, iteration=0)[0].checkpoint_path) / "model.safetensors")
    moved = max(float((weights[0][name] - tensor).abs().max()) for name, tensor in first.items())
    assert moved > 1e-4, "the update is larger than the difference that is allowed"


def test_a_stage_that_takes_too_long_is_stopped_and_tried_again(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, hangs = verify.verify_rollouts, [True]

    def verify_rollouts(*args: Any) -> list[Verification]:
        while hangs and hangs.pop():
            time.sleep(3600)
        return original(*args)

    monkeypatch.setattr(verify, "verify_rollouts", verify_rollouts)
    config = configure("slow", *GRPO, "limits.stage_timeout_minutes={verify=0.1}")
    train(config)
    assert hangs == []
    assert [c.stage for c in verified_commits(config.run_folder)].count("verify") == 1


#: A stage that Python cannot interrupt: the signal is blocked, as it is for code that never comes back to the interpreter.
HANGS = """
import signal, time
from types import SimpleNamespace
from prefect import flow
from tapo_core.config import LimitsConfig
from tasks import options

options.GRACE = 1.0

def sample(session, iteration, digest):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(3600)

session = SimpleNamespace(
    config=SimpleNamespace(limits=LimitsConfig(stage_timeout_minutes={"sample": 0.02})), run_id="run", config_digest="c",
    enter=lambda _: None,
    listed=lambda *_: None, reporter=SimpleNamespace(stage=lambda *_: None), release_store=lambda: None,
)

@flow
def hanging():
    options.stage_task(sample)(session, 1, "i")

hanging()
"""


def test_a_stage_that_cannot_be_interrupted_ends_with_its_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": PREFECT_API_URL.value()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "Timeout (0:00:02" in done.stderr
    assert "in sample" in done.stderr, "where it hung"


#: A stage of a real flow in which the main thread waits for ever, while it keeps all others from logging.
STANDS_STILL = """
import logging, sys, threading
from flows.train import train
from tapo_core.config import TapoConfig
from tapo_core.session import Session

def done(*_):
    with logging._lock:
        threading.Event().wait()

Session.done = done
train(TapoConfig.model_validate_json(sys.argv[1]))
"""


def test_a_flow_whose_stage_stands_still_ends_with_its_process(configure: Configure) -> None:
    config = configure("stuck", *GRPO, "limits.no_progress_minutes=0.05")
    done = subprocess.run(
        [sys.executable, "-c", STANDS_STILL, config.model_dump_json()],
        cwd=ROOT,
        env=os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    for text in (done.stderr, (config.run_folder / "stuck.txt").read_text()):
        assert "(evaluate of iteration 0; limits.no_progress_minutes sets the limit)" in text
        assert "in done\n" in text, "where it hung"
        assert text.count("(most recent call first)") > 3, "the other threads too"
    notes: list[str] = []

    class Notes(LogReporter):
        def note(self, text: str) -> None:
            notes.append(text)

    with reporting(Notes()), open_run(config):  # the run can be continued
        pass
    assert any(note.startswith("the last process that worked on this run: no progress for") for note in notes)
