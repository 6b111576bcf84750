"""`PolicyTrainer` and `FineTuner` over data-parallel ranks: OpenRLHF's own group of Ray actors, each holding our trainer."""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from tapo_core.config import SftConfig
from tapo_core.engines.environment import prepare_environment
from tapo_core.engines.openrlhf_actor import openrlhf_name
from tapo_core.engines.openrlhf_runtime import check_optimizer, import_openrlhf
from tapo_core.engines.openrlhf_sft import OpenRlhfFineTuner, batches_of, run_steps
from tapo_core.engines.openrlhf_trainer import OpenRlhfTrainer, joined, joined_reports
from tapo_core.engines.protocols import (
    PolicyRef,
    StepMetrics,
    TokenScores,
    TrainingExample,
    TrainingTrajectory,
    UpdateReport,
)
from tapo_core.engines.ray_cluster import RayCluster, beat_for
from tapo_core.engines.ray_sampler import own_error
from tapo_core.engines.weight_transfer import Sender
from tapo_core.files import publish_folder

import_openrlhf()  # before its parts: it needs our shims

from openrlhf.trainer.ray.launcher import BaseDistributedActor, RayActorGroup  # noqa: E402


class Rank(BaseDistributedActor):
    """What runs in a process of its own: one rank of torch.distributed's, as OpenRLHF sets it up, and its engine."""

    def __init__(self, world_size: int, rank: int, master_addr: str | None, master_port: int | None) -> None:
        prepare_environment(vllm=False)
        super().__init__(world_size, rank, master_addr, master_port)
        self._engine: Any = None
        self._sender = Sender(ray.util.get_node_ip_address())

    def make(self, engine: Callable[[], Any], pulse: Any) -> None:
        """Make the engine. `pulse`: told of progress (`ray_cluster.Pulse`)."""
        beat_for(pulse)
        self._engine = engine()

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of the engine answers."""
        return getattr(self._engine, method)(*arguments)

    def send(self, method: str, *arguments: Any) -> Any:
        """What a method of this rank's `Sender` answers."""
        return getattr(self._sender, method)(*arguments)

    def process_id(self) -> int:
        """Of the process, on its machine."""
        return os.getpid()


class Ranks:
    """`cluster.trainer_ranks` ranks that each hold an engine; they work on every call together."""

    def __init__(self, cluster: RayCluster, engine: Callable[[], Any]) -> None:
        """Nothing is started before `start`."""
        self._cluster = cluster
        self._engine = engine
        self._group: Any = None

    def start(self) -> None:
        """Start the ranks, if they are not there."""
        if self._group is not None:
            return
        self._cluster.start()
        self._group = RayActorGroup(
            1,
            self._cluster.config.trainer_ranks,
            ray.remote(Rank),
            pg=self._cluster.group,
            num_gpus_per_actor=self._cluster.gpus_of_a_rank,
        )
        self._answers(self._group.async_run_method("make", self._engine, self._cluster.pulse))

    @property
    def started(self) -> bool:
        """Whether the ranks are there."""
        return self._group is not None

    @property
    def first(self) -> Any:
        """The actor of rank 0; None where none is started."""
        return None if self._group is None else self._group._actor_handlers[0]

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """What every rank answers, in their order.

        Raises:
            TransientError: a rank died. All are ended, since the others wait for it.
        """
        shared = [ray.put(argument) for argument in arguments]
        return self._answers(self._group.async_run_method("call", method, *shared))

    @property
    def process_ids(self) -> list[int]:
        """Of the ranks."""
        return self._answers(self._group.async_run_method("process_id"))

    def _answers(self, calls: Sequence[Any]) -> list[Any]:
        waiting = list(calls)
        try:
            # One by one as they come: a rank that died is known at once, while those that wait for it never answer.
            while waiting:
                ready, waiting = ray.wait(waiting, num_returns=1)
                ray.get(ready[0])
            return ray.get(list(calls))
        except BaseException as error:  # noqa: BLE001 - raised again, as what it is
            died = self._death(error, waiting)
            self.close()
            raise own_error(died) from None

    @staticmethod
    def _death(error: BaseException, waiting: Sequence[Any]) -> BaseException:
        """The death of a rank, if that is what made another one fail."""
        failed = ray.wait(list(waiting), num_returns=len(waiting), timeout=5.0)[0] if waiting else []
        for call in failed:
            with contextlib.suppress(Exception):  # it failed with the first
                try:
                    ray.get(call)
                except RayActorError as death:
                    return death
        return error

    def close(self) -> None:
        """End the ranks."""
        if self._group is not None and ray.is_initialized():
            for actor in self._group._actor_handlers:
                ray.kill(actor)
        self._group = None


class RayTrainer:
    """`PolicyTrainer` over data-parallel ranks (see `engines.protocols.PolicyTrainer`)."""

    def __init__(self, cluster: RayCluster, engine: Callable[[], OpenRlhfTrainer]) -> None:
        """`engine` makes a rank's trainer, in its process."""
        self.name = openrlhf_name()
        self._ranks = Ranks(cluster, engine)
        self._policy_version_id: str | None = None

    @property
    def policy_version_id(self) -> str | None:
        """The policy version the weights equal."""
        return self._policy_version_id

    @property
    def first_rank(self) -> Any:
        """The actor of rank 0, which can send a published policy (`Rank.send`); None where none is started."""
        return self._ranks.first

    @property
    def process_ids(self) -> list[int]:
        """Of the ranks."""
        return self._ranks.process_ids

    def load_policy(self, policy: PolicyRef) -> None:
        """Take weights and optimizer state from files, on every rank."""
        self._policy_version_id = None
        check_optimizer(policy)
        self._ranks.start()
        optimizer = None if policy.optimizer is None else policy.optimizer.absolute()
        # The ranks' working directory is not ours.
        self._ranks.call("load_checked", replace(policy, checkpoint=policy.checkpoint.absolute(), optimizer=optimizer))
        self._policy_version_id = policy.policy_version_id

    def score(self, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> list[TokenScores]:
        """Log-probabilities and entropies of responses, each rank a share."""
        scores: dict[int, TokenScores] = {}
        for share in self._ranks.call("score_share", prompts, responses):
            scores |= share
        return [scores[i] for i in range(len(prompts))]

    def update(self, trajectories: Sequence[TrainingTrajectory], seed: int) -> UpdateReport:
        """All optimizer steps of one iteration."""
        self._policy_version_id = None
        return joined_reports(self._ranks.call("update", trajectories, seed))

    def publish(self, folder: Path, policy_version_id: str) -> None:
        """Write weights and optimizer state, atomically, into a folder that every rank can write to."""
        with publish_folder(folder) as temporary:
            self._ranks.call("write", temporary.absolute(), True)
        self._ranks.call("holds", policy_version_id)
        self._policy_version_id = policy_version_id

    def sleep(self) -> None:
        """Give back the devices' memory, on every rank."""
        if self._ranks.started:
            self._policy_version_id = self._ranks.call("sleep")[0]

    def close(self) -> None:
        """End the ranks."""
        self._policy_version_id = None
        self._ranks.close()


class RayFineTuner:
    """`FineTuner` over data-parallel ranks (see `engines.protocols.FineTuner`)."""

    def __init__(self, cluster: RayCluster, config: SftConfig, engine: Callable[[], OpenRlhfFineTuner]) -> None:
        """`engine` makes a rank's fine-tuner, in its process."""
        self.name = openrlhf_name()
        self._config = config
        self._ranks = Ranks(cluster, engine)

    def fine_tune(
        self,
        policy: PolicyRef,
        examples: Sequence[TrainingExample],
        seed: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[StepMetrics]:
        """All optimizer steps, from a policy's weights on."""
        batches = list(batches_of(len(examples), self._config, seed))
        self._ranks.start()
        self._ranks.call(
            "begin", replace(policy, checkpoint=policy.checkpoint.absolute(), optimizer=None), len(batches)
        )

        def step(batch: Sequence[TrainingExample]) -> StepMetrics:
            return joined([[share] for share in self._ranks.call("step_share", batch)])[0]

        return run_steps(batches, examples, step, progress)

    def publish(self, folder: Path) -> None:
        """Write the weights, atomically, into a folder that every rank can write to."""
        with publish_folder(folder) as temporary:
            self._ranks.call("write", temporary.absolute(), False)

    def close(self) -> None:
        """End the ranks."""
        self._ranks.close()
