"""A whole run on a Ray of its own."""

import threading
from pathlib import Path

import pytest
import ray

from flows.train import train
from tapo_core.config import TapoConfig
from tapo_core.engines.hf import load_model
from tapo_core.progress import reporting
from tapo_core.records import PolicyVersion, Rollout
from tapo_core.store import StoreReader
from tests.flows.conftest import Configure, StopAt
from tests.flows.test_ray import assert_close, kill_a_busy_rank


class Killer(StopAt):
    """Kills a rank of the trainer in the middle of the first iteration's update, once."""

    def __init__(self) -> None:
        super().__init__(-1, "")
        self._killed = False

    def stage(self, iteration: int, stage: str) -> None:
        super().stage(iteration, stage)
        if (iteration, stage, self._killed) == (1, "update_policy", False):
            self._killed = True
            threading.Thread(target=kill_a_busy_rank, daemon=True).start()


@pytest.mark.slow  # five minutes on two cores; test_ray.py has both engines, and their deaths
def test_the_whole_run_is_the_same_on_ray(configure: Configure) -> None:
    """Two replicas and two ranks that take turns, one of which dies in the first update; and the local runtime."""
    ray_keys = ("cluster.runtime=ray", "cluster.sampler_replicas=2", "cluster.trainer_ranks=2", "cluster.sleep=true")
    common = ("limits.retry_seconds=0.1", "update.epochs=4")
    configs = [configure("here", *common), configure("there", *common, *ray_keys)]
    assert configs[0].digest == configs[1].digest, "where it runs does not make it another run"
    listener = Killer()
    train(configs[0])
    with reporting(listener):
        train(configs[1])
    assert listener.seen.count((1, "update_policy")) == 2, "the rank was killed, and the stage tried again"
    assert not ray.is_initialized(), "the run's Ray ended with it"
    ours, theirs = (rows_of(config) for config in configs)
    assert ours[0] == theirs[0]
    for here, there in zip(ours[1], theirs[1], strict=True):
        assert_close(load_model(there, "float32", "cpu").state_dict(), load_model(here, "float32", "cpu").state_dict())


def rows_of(config: TapoConfig) -> tuple[list[tuple[object, ...]], list[Path]]:
    """The rollouts but for their run's ids, and the checkpoints."""
    reader = StoreReader(config.run_folder)
    rollouts = sorted((r.iteration, r.kind, r.seed, r.text, r.engine) for r in reader.load(Rollout))
    versions = sorted(reader.load(PolicyVersion), key=lambda version: version.iteration)
    return rollouts, [config.run_folder / version.checkpoint_path for version in versions[1:]]
