"""The engines on a Ray without GPUs: several of each do what one does, and survive the death of any of them."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import ray
import torch
from ray.exceptions import RayActorError

from tapo_core.config import SamplerConfig, SftConfig, TokenWeightConfig
from tapo_core.config_cluster import ClusterConfig
from tapo_core.config_update import OffPolicyConfig, UpdateConfig
from tapo_core.engines.hf import load_model
from tapo_core.engines.openrlhf_actor import rank_batches
from tapo_core.engines.openrlhf_sft import OpenRlhfFineTuner
from tapo_core.engines.openrlhf_trainer import OpenRlhfTrainer
from tapo_core.engines.protocols import PolicyRef, PolicyTrainer, SampleRequest
from tapo_core.engines.ray_cluster import RayCluster
from tapo_core.engines.ray_sampler import RaySampler, deal
from tapo_core.engines.ray_trainer import RayFineTuner, RayTrainer
from tapo_core.engines.vllm_sampler import VllmSampler
from tapo_core.errors import PolicyMismatchError, TransientError, UserError
from tapo_core.ids import tree_digest
from tapo_core.progress import reporting
from tests.flows.conftest import StopAt
from tests.flows.test_fine_tuning import made_up_examples
from tests.flows.test_update_step import TEMPERATURE, made_up_trajectories

TWO_OF_EACH = ClusterConfig(runtime="ray", sampler_replicas=2, trainer_ranks=2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    started = RayCluster(TWO_OF_EACH, tensor_parallel_size=1)
    started.start()
    yield started
    started.close()


def made_up_requests(n_prompts: int, each: int) -> list[SampleRequest]:
    prompts = [[1, *range(5, 7 + n % 5), 10 + n] for n in range(n_prompts)]
    return [
        SampleRequest(prompt, seed=100 * n + k, max_new_tokens=24 + n, temperature=1.0, top_p=1.0)
        for n, prompt in enumerate(prompts)
        for k in range(each)
    ]


def test_replicas_sample_what_one_engine_does_and_one_may_die(cluster: RayCluster, checkpoint: Path) -> None:
    assert ray.util.get_node_ip_address() == "127.0.0.1"
    settings, policy = SamplerConfig(), PolicyRef("p", checkpoint)
    requests = made_up_requests(n_prompts=9, each=4)
    alone = VllmSampler(settings, "float32")
    alone.load_policy(policy)
    expected = alone.sample(requests)
    alone.close()

    sampler = RaySampler(cluster, settings, "float32")
    sampler.load_policy(policy)
    assert sampler.name == alone.name
    assert sampler.policy_version_id == "p"
    first, second = sampler.sample_on_each(requests[:2])
    assert first == second
    held, other = sampler.weights_on_each()
    assert held == other
    told: list[int] = []
    samples = sampler.sample(requests, told.append)
    assert [s.token_ids_T for s in samples] == [s.token_ids_T for s in expected]
    for found, wanted in zip(samples, expected, strict=True):
        assert found.finish_reason == wanted.finish_reason
        assert found.logprobs_T == pytest.approx(wanted.logprobs_T, abs=1e-5)
    assert told == sorted(told)
    assert told[-1] == len(requests)

    # Sequences of one replica end at different steps, so that some of its are finished when it dies.
    listener = Notes()
    victim = sampler.process_ids[0]
    seen: list[int] = []
    with reporting(listener):
        for finished in sampler._stream(requests, deal(requests, 2)):
            seen += [index for index, _ in finished]
            samples = [*samples]
            for index, sample in finished:
                samples[index] = sample
            if psutil.pid_exists(victim):
                os.kill(victim, signal.SIGKILL)
    assert sorted(seen) == list(range(len(requests))), "what was finished is not sampled again"
    assert [s.token_ids_T for s in samples] == [s.token_ids_T for s in expected]
    assert len(listener.notes) == 1
    assert "replica 0 of the sampler died and is started again" in listener.notes[0]
    assert victim not in sampler.process_ids
    # A restarted replica that held other weights would not be let in.
    sampler._held = replace(held, fingerprint="0" * 16)
    with pytest.raises(PolicyMismatchError, match=r"replica 1 .* started again, does not hold the weights of policy p"):
        sampler._replace(1, RayActorError())
    sampler.close()


class Notes(StopAt):
    """Keeps the notes."""

    def __init__(self) -> None:
        super().__init__(-1, "")
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def wait_for(busy: str) -> psutil.Process:
    """A process of Ray's that is in this method; Ray calls a process after that."""
    while True:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if f"ray::{busy}" in " ".join(process.cmdline()):
                    return process


def kill_a_busy_rank() -> None:
    wait_for("Rank.call").kill()


def trainer_of(config: UpdateConfig, checkpoint: Path) -> Callable[[], OpenRlhfTrainer]:
    """Makes one, in whatever process: nothing of the tests is there."""
    correction = OffPolicyConfig(correction="tis")
    return partial(OpenRlhfTrainer, config, TokenWeightConfig(), "float32", TEMPERATURE, 0, checkpoint, correction)


def weights(trainer: PolicyTrainer, folder: Path, version: str) -> dict[str, torch.Tensor]:
    trainer.publish(folder, version)
    assert trainer.policy_version_id == version
    return load_model(folder / "hf", "float32", "cpu").state_dict()


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("zero_stage", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_ranks_take_the_steps_that_one_takes(
    cluster: RayCluster, checkpoint: Path, tmp_path: Path, zero_stage: int
) -> None:
    config = UpdateConfig.model_validate(
        # An eps of Adam's would hide nothing here, and its first steps are of the size of the rate: small, for 1e-5.
        {"learning_rate": 1e-5, "warmup_steps": 0, "micro_batch_tokens": 24, "epochs": 2, "minibatches": 2,
         "kl_coefficient": 0.5, "zero_stage": zero_stage}
    )  # fmt: skip
    trajectories = made_up_trajectories(checkpoint, 9)
    prompts = [t.prompt_token_ids for t in trajectories]
    responses = [t.response_token_ids_T for t in trajectories]
    initial = PolicyRef("p", checkpoint)
    local = trainer_of(config.model_copy(update={"zero_stage": 0}), checkpoint)()
    local.load_policy(initial)
    expected_scores = local.score(prompts, responses)
    expected_steps = local.update(trajectories, seed=5).steps
    expected = weights(local, tmp_path / "local", "q")
    local.close()

    trainer = RayTrainer(cluster, trainer_of(config, checkpoint))
    trainer.load_policy(initial)
    for found, wanted in zip(trainer.score(prompts, responses), expected_scores, strict=True):
        assert found.logprobs_T == pytest.approx(wanted.logprobs_T, abs=1e-5)
        assert found.entropies_T == pytest.approx(wanted.entropies_T, abs=1e-5)
    steps = trainer.update(trajectories, seed=5).steps
    assert len(steps) == len(expected_steps) == 4
    for step, wanted_step in zip(steps, expected_steps, strict=True):
        assert step.values == pytest.approx(wanted_step.values, abs=1e-5, rel=1e-4)
    assert_close(weights(trainer, tmp_path / "ray", "q"), expected)

    if zero_stage > 0:  # each rank has its part of the optimizer's state
        state = PolicyRef("q", tmp_path / "ray/hf", tmp_path / "ray/deepspeed", tree_digest(tmp_path / "ray/deepspeed"))
        trainer.load_policy(state)
        with pytest.raises(UserError, match=r"written by 2 ranks.*cluster.trainer_ranks = 2"):
            trainer_of(config, checkpoint)().load_policy(state)

    # One dies in the middle of an update: the other is not waited for, and the update is made again on new ranks.
    trainer.load_policy(initial)
    victim = trainer.process_ids[1]
    threading.Thread(target=kill_a_busy_rank, daemon=True).start()
    with pytest.raises(TransientError, match="an engine's process died"):
        trainer.update(trajectories * 20, seed=5)
    assert trainer.policy_version_id is None
    trainer.load_policy(initial)
    assert victim not in trainer.process_ids
    trainer.update(trajectories, seed=5)
    assert_close(weights(trainer, tmp_path / "again", "q"), expected)
    trainer.close()


def test_ranks_score_in_their_only_step(cluster: RayCluster, checkpoint: Path, tmp_path: Path) -> None:
    config = UpdateConfig(learning_rate=1e-5, warmup_steps=0, micro_batch_tokens=24)
    trajectories = [replace(t, old_logprobs_T=None) for t in made_up_trajectories(checkpoint, 9)]
    texts = [t.prompt_token_ids for t in trajectories], [t.response_token_ids_T for t in trajectories]
    found = []
    for name, trainer in (
        ("local", trainer_of(config, checkpoint)()),
        ("ray", RayTrainer(cluster, trainer_of(config, checkpoint))),
    ):
        trainer.load_policy(PolicyRef("p", checkpoint))
        scores = {t.subject_id: s.logprobs_T for t, s in zip(trajectories, trainer.score(*texts), strict=True)}
        report = trainer.update(trajectories, seed=5)
        assert report.old_logprobs_T.keys() == scores.keys()
        for subject_id, logprobs in scores.items():
            assert report.old_logprobs_T[subject_id] == pytest.approx(logprobs, abs=1e-5)
        (step,) = report.steps
        found.append((step.values, weights(trainer, tmp_path / name, "q")))
        trainer.close()
    (local_step, local), (step, own) = found
    assert step == pytest.approx(local_step, abs=1e-5, rel=1e-4)
    assert_close(own, local)


def test_ranks_fine_tune_as_one_does(cluster: RayCluster, checkpoint: Path, tmp_path: Path) -> None:
    config = SftConfig(learning_rate=1e-5, batch_size=5, epochs=2, warmup_steps=0, micro_batch_tokens=30)
    examples = made_up_examples(13)
    engine = partial(OpenRlhfFineTuner, config, UpdateConfig(), "float32", seed=0)
    found = []
    for name, tuner in (("local", engine()), ("ray", RayFineTuner(cluster, config, engine))):
        told: list[tuple[int, int]] = []
        steps = tuner.fine_tune(PolicyRef("p", checkpoint), examples, 5, lambda n, of, told=told: told.append((n, of)))
        tuner.publish(tmp_path / name)
        tuner.close()
        assert told == [(n, 6) for n in range(1, 7)]
        found.append((steps, load_model(tmp_path / name / "hf", "float32", "cpu").state_dict()))
    for ours, theirs in zip(found[1][0], found[0][0], strict=True):
        assert ours.values == pytest.approx(theirs.values, abs=1e-5, rel=1e-4)
    assert_close(found[1][1], found[0][1])


def test_what_the_cluster_cannot_have(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"cluster.trainer_ranks is for cluster.runtime = .ray."):
        ClusterConfig(trainer_ranks=2)


def shares(lengths: Sequence[int], max_tokens: int, n_ranks: int) -> list[list[int]]:
    return [[i for batch in own for i in batch] for own in rank_batches(lengths, max_tokens, n_ranks)]


def test_ranks_get_balanced_shares_in_equally_many_micro_batches() -> None:
    lengths = [8000, 100, 120, 90, 4000, 3900, 50, 7000, 300]
    parts = rank_batches(lengths, 8000, 3)
    assert sorted(i for own in shares(lengths, 8000, 3) for i in own) == list(range(len(lengths)))
    assert len({len(own) for own in parts}) == 1
    loads = [sum(lengths[i] for i in own) for own in shares(lengths, 8000, 3)]
    assert max(loads) <= 1.1 * sum(lengths) / 3
    assert rank_batches([5], 8, 3) == [[[0]], [[]], [[]]]
