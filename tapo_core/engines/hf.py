"""transformers as an engine: checkpoints, tokenizers, and the `HfSampler`."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
import transformers.utils.logging

from tapo_core.config import SamplerConfig
from tapo_core.engines.environment import device_name, has_gpu
from tapo_core.engines.fingerprint import fingerprint
from tapo_core.engines.protocols import HeldWeights, PolicyRef, Sample, SampleRequest
from tapo_core.engines.stops import stops_of
from tapo_core.engines.streaming import StreamingSampler
from tapo_core.errors import UserError
from tapo_core.heartbeat import beat
from tapo_core.records import FinishReason

if TYPE_CHECKING:
    import torch

transformers.utils.logging.disable_progress_bar()


def load_model(checkpoint: Path, dtype: str, device: str) -> "torch.nn.Module":
    """A causal language model from a folder of safetensors. Never runs code that comes with a checkpoint.

    Raises:
        UserError: the folder is missing or holds no checkpoint that transformers can read.
    """
    import torch

    _check_checkpoint(checkpoint)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(checkpoint),
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint}: cannot load the checkpoint: {str(error).splitlines()[0]}") from error
    module: torch.nn.Module = model.to(device).eval()
    return module


def _check_checkpoint(checkpoint: Path) -> None:
    if not (checkpoint / "config.json").is_file():
        raise UserError(f"{checkpoint}: no Hugging Face checkpoint there (config.json is missing); set model.path")


def load_tokenizer(checkpoint: Path) -> Any:
    """The checkpoint's tokenizer.

    Raises:
        UserError: there is no checkpoint, or its tokenizer has no chat template, or one that begins with a byte-order mark.
    """
    _check_checkpoint(checkpoint)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(checkpoint), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint}: cannot load the tokenizer: {str(error).splitlines()[0]}") from error
    if not tokenizer.chat_template:
        raise UserError(f"{checkpoint}: the tokenizer has no chat template; TAPO prompts through chat templates only")
    if isinstance(tokenizer.chat_template, str) and tokenizer.chat_template.startswith("\ufeff"):
        raise UserError(
            f"{checkpoint}: the chat template begins with a byte-order mark, which would be the beginning of every prompt; save "
            "chat_template.jinja as UTF-8 without one"
        )
    return tokenizer


def stop_tokens_of(policy: PolicyRef) -> tuple[int, ...]:
    """The tokens that end a turn of a policy, the end-of-turn token first: those it came with, or what its checkpoint names.

    Raises:
        UserError: it came with none, and its checkpoint names none.
    """
    if policy.stop_tokens is not None:
        return policy.stop_tokens
    return stops_of(policy.checkpoint, load_tokenizer(policy.checkpoint)).tokens


class HfSampler(StreamingSampler):
    """`Sampler` over transformers, one token at a time with a seeded generator for each sequence.

    Slow on purpose: no padding tricks, no batching across prompts of different lengths. It is the oracle in tests and an
    explicit choice (``sampler.engine = "hf"``) where vLLM cannot run.
    """

    def __init__(self, config: SamplerConfig, dtype: str) -> None:
        self.name = f"transformers {transformers.__version__}"
        self._config = config
        self._dtype = dtype
        self._model: Any = None
        self._stop_tokens: tuple[int, ...] = ()
        self._policy_version_id: str | None = None

    @property
    def policy_version_id(self) -> str | None:
        """The policy version the model holds."""
        return self._policy_version_id

    def load_policy(self, policy: PolicyRef) -> None:
        """Load a checkpoint."""
        self._model = load_model(policy.checkpoint, self._dtype, "cuda" if has_gpu() else "cpu")
        self._stop_tokens = stop_tokens_of(policy)
        self._policy_version_id = policy.policy_version_id

    def stream(self, requests: Sequence[SampleRequest]) -> Iterator[list[tuple[int, Sample]]]:
        """Sample every request. Requests with the same prompt are decoded together."""
        if self._policy_version_id is None:
            raise RuntimeError("load_policy comes before sample")
        by_prompt: dict[tuple[int, ...], list[int]] = {}
        for index, request in enumerate(requests):
            by_prompt.setdefault(tuple(request.prompt_token_ids), []).append(index)
        for indices in by_prompt.values():
            yield list(zip(indices, self._sample_group([requests[i] for i in indices]), strict=True))

    def _sample_group(self, group: Sequence[SampleRequest]) -> Iterable[Sample]:
        """Decode requests that share one prompt, with a key-value cache."""
        import torch

        device = self._model.device
        generators = [torch.Generator(device="cpu").manual_seed(r.seed) for r in group]
        ids = torch.tensor([r.prompt_token_ids for r in group], device=device)
        tokens: list[list[int]] = [[] for _ in group]
        logprobs: list[list[float]] = [[] for _ in group]
        finished: list[FinishReason | None] = [None] * len(group)
        cache = None
        while any(reason is None for reason in finished):
            with torch.no_grad():
                output = self._model(ids, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            beat()
            chosen = []
            for row, request in enumerate(group):
                logp = torch.log_softmax(output.logits[row, -1].float().cpu() / request.temperature, dim=-1)
                token = _draw(logp, request.top_p, generators[row])
                chosen.append(token)
                if finished[row] is not None:
                    continue
                tokens[row].append(token)
                logprobs[row].append(float(logp[token]))
                if token in self._stop_tokens:
                    finished[row] = FinishReason.STOP
                elif len(tokens[row]) >= request.max_new_tokens:
                    finished[row] = FinishReason.LENGTH
            ids = torch.tensor([[t] for t in chosen], device=device)
        return [
            Sample(t, lp, reason)
            for t, lp, reason in zip(tokens, logprobs, finished, strict=True)
            if reason is not None
        ]

    def weights(self) -> HeldWeights:
        """The weights that the model holds."""
        return HeldWeights(f"{fingerprint(self._model.parameters()):016x}", device_name(self._model.device.type))

    def sleep(self) -> None:
        """Drop the model: it is read again from the checkpoint."""
        self.close()

    def close(self) -> None:
        """Drop the model."""
        self._model = None
        self._policy_version_id = None


def _draw(logprobs_V: "torch.Tensor", top_p: float, generator: "torch.Generator") -> int:
    """One token from a distribution over V tokens, from the smallest set whose probability reaches top_p."""
    import torch

    probs = logprobs_V.exp()
    if top_p < 1.0:
        ordered, order = probs.sort(descending=True)
        ordered[ordered.cumsum(0) - ordered > top_p] = 0.0
        probs = torch.zeros_like(probs).scatter(0, order, ordered)
    return int(torch.multinomial(probs, 1, generator=generator))
