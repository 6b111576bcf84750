"""How a configuration lays the engines out: the one place that knows the keys of [cluster] and those of [update] on memory."""

from dataclasses import dataclass

from tapo_core.config import TapoConfig


@dataclass(frozen=True, slots=True)
class Layout:
    """What the formulas need of the configuration."""

    ray: bool
    replicas: int  #: vLLM engines
    tensor_parallel: int  #: GPUs of each
    ranks: int  #: of the trainer, a GPU each
    colocated: bool
    sleep: bool
    zero_stage: int
    checkpointing: bool
    offload: bool  #: Adam's state in the host's memory
    lora_rank: int
    dtype_bytes: int
    micro_batch: int  #: tokens of the largest micro-batch: a longer sequence has one of its own
    longest: int  #: tokens of the longest sequence
    logit_chunk: int  #: tokens whose logits are held at once

    @property
    def gpus(self) -> int:
        """GPUs that are used."""
        sampling = self.replicas * self.tensor_parallel
        return max(sampling, self.ranks) if self.colocated else sampling + self.ranks


def layout_of(config: TapoConfig) -> Layout:
    """The layout of a configuration."""
    cluster, update, longest = config.cluster, config.update, config.sampler.max_model_len
    return Layout(
        ray=cluster.runtime == "ray",
        replicas=cluster.sampler_replicas,
        tensor_parallel=config.sampler.tensor_parallel_size,
        ranks=cluster.trainer_ranks,
        colocated=cluster.placement == "colocated" or cluster.runtime == "local",
        sleep=cluster.sleep,
        zero_stage=update.zero_stage,
        checkpointing=update.gradient_checkpointing,
        offload=update.offload == "optimizer",
        lora_rank=update.lora_rank,
        dtype_bytes=4 if config.model.dtype == "float32" else 2,
        micro_batch=max(update.micro_batch_tokens, longest),
        longest=longest,
        logit_chunk=min(update.score_chunk_tokens, max(update.micro_batch_tokens, longest)),
    )
