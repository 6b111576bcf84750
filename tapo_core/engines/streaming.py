"""What samplers that hold an engine themselves have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

from tapo_core.config import SamplerConfig
from tapo_core.engines.protocols import HeldWeights, PolicyRef, Sample, SampleRequest


class StreamingSampler(ABC):
    """A `Sampler` over an engine in this process, which hands out each sample as soon as it is finished."""

    name: str

    @property
    @abstractmethod
    def policy_version_id(self) -> str | None:
        """The policy version the engine holds."""

    @abstractmethod
    def load_policy(self, policy: PolicyRef) -> None:
        """Take the weights of a published checkpoint."""

    @abstractmethod
    def stream(self, requests: Sequence[SampleRequest]) -> Iterator[list[tuple[int, Sample]]]:
        """Sample every request; yields those that have just been finished, each with its index."""

    @abstractmethod
    def weights(self) -> HeldWeights:
        """The weights that the engine holds."""

    @abstractmethod
    def sleep(self) -> None:
        """Give back the device's memory until the next `load_policy`."""

    @abstractmethod
    def close(self) -> None:
        """Free the engine."""

    def sample(self, requests: Sequence[SampleRequest], progress: Callable[[int], None] | None = None) -> list[Sample]:
        """Sample every request, in order."""
        samples: dict[int, Sample] = {}
        for finished in self.stream(requests):
            samples.update(finished)
            if progress is not None:
                progress(len(samples))
        return [samples[i] for i in range(len(requests))]

    def sample_on_each(self, requests: Sequence[SampleRequest]) -> list[list[Sample]]:
        """The samples of every engine that works for this sampler: the one there is."""
        return [self.sample(requests)]

    def weights_on_each(self) -> list[HeldWeights]:
        """The weights of every engine that works for this sampler: of the one there is."""
        return [self.weights()]


def make_sampler(config: SamplerConfig, dtype: str, sleeps: bool, receives: bool = False) -> StreamingSampler:
    """The sampler that a configuration names, with its engine in this process, not started yet.

    `sleeps`: whether `sleep` will be called. `receives`: whether policies will be sent to it; vLLM alone can.
    """
    if config.engine == "hf":
        from tapo_core.engines.hf import HfSampler

        return HfSampler(config, dtype)
    from tapo_core.engines.vllm_sampler import VllmSampler

    return VllmSampler(config, dtype, sleeps, receives)
