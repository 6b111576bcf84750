"""The section of the configuration that says on which machines and devices the engines run."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tapo_core.config_section import PositiveInt, Section


class ClusterConfig(Section):
    """Where sampler and trainer run (docs/scale.md). A run may be resumed with other values, on other machines."""

    runtime: Literal["local", "ray"] = "local"
    """local: one sampler and one trainer in the run's own process. ray: as many of each as the keys below say, in processes of
    their own, on every machine of a Ray cluster."""
    address: str = "local"
    """ray: "local" starts a Ray on this machine for as long as the run works; "auto" or host:port joins a running one."""
    sampler_replicas: PositiveInt = 1
    """ray: sampling engines that share an iteration's queries, each on sampler.tensor_parallel_size GPUs."""
    trainer_ranks: PositiveInt = 1
    """ray: data-parallel ranks of the trainer, each on a GPU."""
    placement: Literal["colocated", "disjoint"] = "colocated"
    """ray: whether sampler and trainer are on the same GPUs or on GPUs of their own."""
    sleep: bool = False
    """While one of sampler and trainer works, the other one's memory is given back: needed where both do not fit at once."""
    weight_transfer: Literal["files", "direct"] = "files"
    """ray: how replicas get a new policy. files: each reads the published checkpoint. direct: the trainer's first rank sends it
    to all, by NCCL where there are GPUs, else by gloo; for vLLM, placement = "disjoint" and no sleep. It is published all the
    same, and read from files when a run starts or goes on, and where a transfer fails."""
    restarts: Annotated[int, Field(ge=0)] = 3
    """ray: times that replicas which died are started again within one call; what they had finished is kept."""
    start_minutes: Annotated[float, Field(gt=0.0)] = 10.0
    """ray: how long to wait until the cluster has the GPUs and processors that are needed."""

    @model_validator(mode="after")
    def _combinations(self) -> "ClusterConfig":
        if self.runtime == "local":
            for key, value in {
                "sampler_replicas": self.sampler_replicas > 1,
                "trainer_ranks": self.trainer_ranks > 1,
                "placement": self.placement == "disjoint",
                "address": self.address != "local",
                "weight_transfer": self.weight_transfer == "direct",
            }.items():
                if value:
                    raise ValueError(f'cluster.{key} is for cluster.runtime = "ray"; set that, or leave it out')
        if self.weight_transfer == "direct" and (self.placement != "disjoint" or self.sleep):
            raise ValueError(
                'cluster.weight_transfer = "direct" needs cluster.placement = "disjoint" and cluster.sleep = false: NCCL joins '
                "GPUs, one process on each, that hold their memory"
            )
        return self

    @property
    def bundles(self) -> int:
        """Places that sampler and trainer need together: GPUs where every replica has one."""
        both = (self.sampler_replicas, self.trainer_ranks)
        return max(both) if self.placement == "colocated" else sum(both)
