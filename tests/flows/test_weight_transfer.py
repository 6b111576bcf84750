"""Policies sent from the trainer's first rank to the sampler's replicas, on a Ray without GPUs."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tapo_core.config import SamplerConfig
from tapo_core.config_cluster import ClusterConfig
from tapo_core.config_file import parse_config
from tapo_core.config_update import UpdateConfig
from tapo_core.engines.protocols import PolicyRef, Sample
from tapo_core.engines.ray_cluster import RayCluster
from tapo_core.engines.ray_sampler import RaySampler
from tapo_core.engines.ray_trainer import RayTrainer
from tapo_core.engines.vllm_sampler import VllmSampler
from tapo_core.engines.weight_transfer import TensorHeader, headers, tensors
from tapo_core.errors import ConfigError, IntegrityError
from tapo_core.nano.config import NanoConfig
from tapo_core.nano.model import build_model
from tapo_core.progress import reporting
from tests.flows.test_ray import Notes, made_up_requests, trainer_of, wait_for
from tests.flows.test_update_step import made_up_trajectories

DIRECT = ClusterConfig(runtime="ray", sampler_replicas=2, placement="disjoint", weight_transfer="direct")


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    started = RayCluster(DIRECT, tensor_parallel_size=1)
    started.start()
    yield started
    started.close()


def assert_same(found: list[Sample], expected: list[Sample]) -> None:
    assert [s.token_ids_T for s in found] == [s.token_ids_T for s in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs_T == pytest.approx(other.logprobs_T, abs=1e-6)


@pytest.mark.timeout(1500)  # a minute, but once it took eight
def test_replicas_take_what_the_trainer_sends(cluster: RayCluster, checkpoint: Path, tmp_path: Path) -> None:
    requests = made_up_requests(n_prompts=4, each=2)
    trajectories = made_up_trajectories(checkpoint, 9)
    trainer = RayTrainer(cluster, trainer_of(UpdateConfig(learning_rate=1e-2, warmup_steps=0), checkpoint))
    trainer.load_policy(PolicyRef("p0", checkpoint))
    sampler = RaySampler(
        cluster, SamplerConfig(), "float32", lambda v: trainer.first_rank if trainer.policy_version_id == v else None
    )
    alone = VllmSampler(SamplerConfig(), "float32")
    listener = Notes()

    def updated(name: str) -> PolicyRef:
        trainer.update(trajectories, seed=5)
        trainer.publish(tmp_path / name, name)
        return PolicyRef(name, tmp_path / name / "hf")

    def assert_reads(policy: PolicyRef) -> None:
        """Every replica samples what an engine does that read the files."""
        alone.load_policy(policy)
        expected = alone.sample(requests)
        for found in sampler.sample_on_each(requests):
            assert_same(found, expected)

    sampler.load_policy(PolicyRef("p0", checkpoint))
    assert sampler._group == (), "no replica was there to send to: they read the files"
    seen = [sampler.sample(requests)]
    with reporting(listener):
        for name in ("p1", "p2"):
            policy, before = updated(name), sampler._group
            sampler.load_policy(policy)
            assert len(sampler._group) == 3
            assert before in ((), sampler._group), "the group is made once"
            assert sampler.policy_version_id == name
            assert_reads(policy)
            seen.append(sampler.sample(requests))
    assert listener.notes == []
    texts = [[s.token_ids_T for s in samples] for samples in seen]
    assert texts[0] != texts[1] != texts[2], "each policy samples otherwise"

    # A replica dies while it is sent to: it is started again, and all read the files.
    policy, (victim, other) = updated("p3"), sampler.process_ids
    os.kill(victim, signal.SIGSTOP)  # so that the transfer cannot end before

    def kill_the_victim() -> None:
        wait_for("Rank.send")
        os.kill(victim, signal.SIGKILL)

    threading.Thread(target=kill_the_victim, daemon=True).start()
    with reporting(listener):
        sampler.load_policy(policy)
    told = listener.notes
    assert len(told) == 2
    assert "p3 could not be sent" in told[0]
    assert "replica 0 of the sampler died and is started again" in told[1]
    assert sampler._group == ()
    assert victim not in sampler.process_ids
    assert sampler.process_ids[1] == other
    assert_reads(policy)
    policy = updated("p4")
    with reporting(listener):
        sampler.load_policy(policy)
    assert len(told) == 2, "sent again"
    assert len(sampler._group) == 3, "a new group, with the new replica"
    assert_reads(policy)

    # The rank dies that is to send.
    policy = updated("p5")
    os.kill(trainer.process_ids[0], signal.SIGKILL)
    with reporting(listener):
        sampler.load_policy(policy)
    assert len(told) == 3
    assert "p5 could not be sent" in told[2]
    assert_reads(policy)
    for engine in (alone, sampler, trainer):
        engine.close()


def test_headers_say_what_is_sent(tmp_path: Path) -> None:
    first = {"b": torch.rand(2, 3), "a": torch.rand(4).bfloat16()}
    second = {"c": torch.rand(1, 2, 2).half()}
    save_file(first, tmp_path / "model-00001-of-00002.safetensors")
    save_file(second, tmp_path / "model-00002-of-00002.safetensors")
    told = headers(tmp_path)
    assert told == [
        TensorHeader("a", "bfloat16", (4,)), TensorHeader("b", "float32", (2, 3)), TensorHeader("c", "float16", (1, 2, 2)),
    ]  # fmt: skip
    for header, tensor in zip(told, tensors(tmp_path), strict=True):
        assert torch.equal(tensor, (first | second)[header.name])
    save_file({"d": torch.zeros(2, dtype=torch.int64)}, tmp_path / "model-00003.safetensors")
    with pytest.raises(IntegrityError, match=r"model-00003.safetensors: d is of type I64, not one of F32, BF16, F16"):
        headers(tmp_path)
    with pytest.raises(IntegrityError, match="no safetensors file"):
        headers(tmp_path / "nothing")


def test_tied_weights_are_sent_once_from_all_shards(tmp_path: Path) -> None:
    model = build_model(NanoConfig(n_layers=2, hidden_size=64, ffn_size=64), seed=3)
    assert model.config.tie_word_embeddings
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    sent = dict(zip([header.name for header in headers(tmp_path)], tensors(tmp_path), strict=True))
    own = dict(model.named_parameters())
    assert sent.keys() == own.keys()
    assert "lm_head.weight" not in sent
    for name, tensor in sent.items():
        assert torch.equal(tensor, own[name])


@pytest.mark.parametrize(
    ("cluster", "says"),
    [
        ({}, "cluster.weight_transfer is for cluster.runtime"),
        ({"runtime": "ray"}, "needs cluster.placement"),
        ({"runtime": "ray", "placement": "disjoint", "sleep": True}, "cluster.sleep = false"),
        ({"runtime": "ray", "placement": "disjoint"}, "needs sampler.engine"),
    ],
)
def test_where_nothing_can_be_sent(cluster: dict[str, object], says: str) -> None:
    tree = {"run": {"name": "a"}, "sampler": {"engine": "hf"}, "cluster": {"weight_transfer": "direct"} | cluster}
    with pytest.raises(ConfigError, match=says):
        parse_config(tree, "test")
