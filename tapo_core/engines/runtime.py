"""A run's engines, where its configuration says: in this process, or on a Ray cluster."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapo_core.config import SftConfig, TapoConfig
from tapo_core.config_update import UpdateConfig
from tapo_core.engines.environment import has_gpu
from tapo_core.engines.protocols import FineTuner, PolicyTrainer, Sampler
from tapo_core.engines.streaming import make_sampler

if TYPE_CHECKING:
    from tapo_core.engines.ray_cluster import RayCluster
    from tapo_core.engines.ray_trainer import RayTrainer


class Runtime:
    """Makes engines. None is started before it is used."""

    def __init__(self, config: TapoConfig, reference: Path) -> None:
        """`reference`: the checkpoint that a KL term keeps the policy near."""
        self._config = config
        self._reference = reference.absolute()
        self._cluster: RayCluster | None = None
        self._ray_trainer: RayTrainer | None = None

    @property
    def _on_ray(self) -> "RayCluster | None":
        """The Ray cluster, if the engines are to be there."""
        if self._config.cluster.runtime == "ray" and self._cluster is None:
            from tapo_core.engines.ray_cluster import RayCluster

            self._cluster = RayCluster(self._config.cluster, self._config.sampler.tensor_parallel_size)
        return self._cluster

    @property
    def probe_device(self) -> str:
        """Where the probe reads a checkpoint: never on a GPU that engines in other processes take as theirs."""
        return "cuda" if self._config.cluster.runtime == "local" and has_gpu() else "cpu"

    def sampler(self) -> Sampler:
        """A new sampler."""
        config = self._config
        if self._on_ray is None:
            return make_sampler(config.sampler, config.model.dtype, config.cluster.sleep)
        from tapo_core.engines.ray_sampler import RaySampler

        return RaySampler(self._on_ray, config.sampler, config.model.dtype, self._sender)

    def _sender(self, policy_version_id: str) -> Any:
        """The actor that can send a policy to replicas: the trainer's first rank, if it holds that policy; else None."""
        trainer = self._ray_trainer
        return trainer.first_rank if trainer is not None and trainer.policy_version_id == policy_version_id else None

    def trainer(self, update: UpdateConfig) -> PolicyTrainer:
        """A new trainer. `update`: [update], or what became of it when memory did not suffice."""
        from tapo_core.engines.openrlhf_trainer import OpenRlhfTrainer

        config = self._config
        make = partial(
            OpenRlhfTrainer,
            update,
            config.token_weight,
            config.model.dtype,
            config.sampler.temperature,
            config.run.seed,
            self._reference,
            config.off_policy,
        )
        if self._on_ray is None:
            return make()
        from tapo_core.engines.ray_trainer import RayTrainer

        self._ray_trainer = RayTrainer(self._on_ray, make)
        return self._ray_trainer

    def fine_tuner(self, sft: SftConfig) -> FineTuner:
        """A new engine for supervised fine-tuning. `sft`: like `update` of the trainer."""
        from tapo_core.engines.openrlhf_sft import OpenRlhfFineTuner

        config = self._config
        make = partial(OpenRlhfFineTuner, sft, config.update, config.model.dtype, config.run.seed)
        if self._on_ray is None:
            return make()
        from tapo_core.engines.ray_trainer import RayFineTuner

        return RayFineTuner(self._on_ray, sft, make)

    def close(self) -> None:
        """Leave the cluster, after the engines were closed."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None
