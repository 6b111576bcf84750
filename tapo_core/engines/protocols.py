"""The two seams between the algorithm and the engines: `Sampler` and `PolicyTrainer`.

Everything that crosses them is plain data (token ids, floats, paths), so that an implementation may live in this process,
in another one, or on a cluster.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tapo_core.records import AdvantageGroup, FinishReason


@dataclass(frozen=True, slots=True)
class PolicyRef:
    """A policy version and where its files are. `optimizer` is None for a policy that was never trained by us."""

    policy_version_id: str
    checkpoint: Path  #: Hugging Face folder: config, safetensors, tokenizer
    optimizer: Path | None = None  #: DeepSpeed checkpoint folder
    optimizer_digest: str | None = None  #: checked before the DeepSpeed files are opened
    #: ids of the tokens that end a turn, the end-of-turn token first; None: those that the checkpoint names (`stops.stops_of`)
    stop_tokens: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One text to sample."""

    prompt_token_ids: list[int]
    seed: int
    max_new_tokens: int
    temperature: float
    top_p: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled text. `logprobs_T[t]` is log p(token_ids_T[t] | prompt, token_ids_T[:t]) in nats, at the request's
    temperature and top-p."""

    token_ids_T: list[int]
    logprobs_T: list[float]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class HeldWeights:
    """What one engine holds, and where."""

    fingerprint: str  #: of its weights, 16 hex digits (see `fingerprint`)
    device: str  #: such as "NVIDIA H100 80GB HBM3", "2 x NVIDIA L4" or "CPU AVX512"


class Sampler(Protocol):
    """Stage 1 and 4: samples from the policy it was last given."""

    name: str  #: engine and version, stored with every rollout

    @property
    def policy_version_id(self) -> str | None:
        """The policy version the engine holds, None before `load_policy`."""

    def load_policy(self, policy: PolicyRef) -> None:
        """Take the weights of a published checkpoint.

        Raises:
            TransientError: the engine could not be started or died.
        """

    def sample(self, requests: Sequence[SampleRequest], progress: Callable[[int], None] | None = None) -> list[Sample]:
        """Sample every request, in order. `progress` is called with the number finished so far.

        Raises:
            TransientError: the engine died. Nothing is kept of the call.
        """

    def sample_on_each(self, requests: Sequence[SampleRequest]) -> list[list[Sample]]:
        """The samples of every engine that works for this sampler, each of all requests: for the probe."""

    def weights_on_each(self) -> list[HeldWeights]:
        """The weights that every engine holds, in the order of `sample_on_each`: for the probe."""

    def sleep(self) -> None:
        """Give the device's memory back until the next `load_policy`."""

    def close(self) -> None:
        """Free the engine's memory. A closed sampler can be loaded again."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Scores of one response under one policy, at the sampling temperature. Both lists have one entry a response token."""

    logprobs_T: list[float]  #: nats
    entropies_T: list[float]  #: H[p(. | x, y_<t)], nats


@dataclass(frozen=True, slots=True)
class TrainingTrajectory:
    """One trajectory of an update. All lists but the prompt have one entry a response token.

    Every response token has a loss: tokens that are conditioned on but not trained on belong to the prompt.
    """

    subject_id: str
    group: AdvantageGroup
    prompt_token_ids: list[int]
    response_token_ids_T: list[int]
    #: under the policy that the update begins with; None, in an update of one step alone: its own forward pass gives them
    old_logprobs_T: list[float] | None
    advantage: float
    weights_T: list[float]  #: OTS weights; 1.0 everywhere for original rollouts
    #: by the sampler; None where it sampled under another prompt
    sampled_logprobs_T: list[float] | None = None


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One example of supervised fine-tuning. Only the completion has a loss."""

    prompt_token_ids: list[int]
    token_ids_T: list[int]  #: the completion, its end-of-turn token included


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """What one optimizer step reported, name -> value."""

    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What an update did."""

    steps: list[StepMetrics]  #: in order
    old_logprobs_T: dict[str, list[float]]  #: subject id -> those of each trajectory that came without them, nats


class PolicyTrainer(Protocol):
    """Stage 6: holds the trainable policy with its optimizer state."""

    name: str

    @property
    def policy_version_id(self) -> str | None:
        """The policy version the weights equal, None before `load_policy` and from the first optimizer step of an
        update until `publish`."""

    def load_policy(self, policy: PolicyRef) -> None:
        """Take weights and, where there is one, optimizer state."""

    def score(self, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> list[TokenScores]:
        """Log-probabilities and entropies of responses, without gradient."""

    def update(self, trajectories: Sequence[TrainingTrajectory], seed: int) -> UpdateReport:
        """All optimizer steps of one iteration.

        Raises:
            ValueError: a trajectory has no old log-probabilities, and there is more than one step.
        """

    def publish(self, folder: Path, policy_version_id: str) -> None:
        """Write the weights to `folder`/hf and the optimizer state to `folder`/deepspeed, atomically: the folder appears
        complete or not at all. An earlier folder of the same name is replaced."""

    def sleep(self) -> object:
        """Give the device's memory back until the next call; where that takes a `load_policy`, `policy_version_id` is None."""

    def close(self) -> None:
        """Free memory."""


class FineTuner(Protocol):
    """Cold start: supervised fine-tuning of a policy."""

    name: str

    def fine_tune(
        self,
        policy: PolicyRef,
        examples: Sequence[TrainingExample],
        seed: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[StepMetrics]:
        """All optimizer steps, in order, from a policy's weights on. `progress` is called with (steps done, steps in all).

        Each step's values: loss (nats a completion token, mean over the batch), grad_norm (before clipping), learning_rate.
        """

    def publish(self, folder: Path) -> None:
        """Write the weights to `folder`/hf, atomically: the folder appears complete or not at all."""

    def close(self) -> None:
        """Free memory."""
