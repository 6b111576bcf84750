"""log p of given tokens, and entropies, without the logits of a whole text: the output layer works through it in chunks.

For T tokens and a vocabulary of V a full matrix of logits takes 4 T V bytes (10 GB at T = 16,384 and V = 151,936), several
times over in a backward pass. Here nothing larger than [chunk, V] exists at any time, forward or backward.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any, NamedTuple

from tapo_core.errors import UserError
from tapo_core.heartbeat import beat

if TYPE_CHECKING:
    import torch

CHUNK_TOKENS = 1024
BATCH_TOKENS = 16384


class Scores(NamedTuple):
    """Scores of the tokens of a batch; index t is about token t+1. 0 where nothing was asked for."""

    logprobs: "torch.Tensor"  #: [B, T-1], float32, nats
    entropy: "torch.Tensor | None"  #: [B, T-1], float32, nats


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices in batches of similar length, whose padded size (rows x longest) is at most `max_tokens`.

    A sequence longer than `max_tokens` gets a batch of its own. Order within equal lengths is kept, so that the result
    depends on the lengths alone.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def pad_right(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], device: Any, pad_id: int = 0
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Right-padded ids [B, T] (int64), and a mask [B, T-1] (float32) of the response tokens; its index t is about token t+1."""
    import torch

    rows = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
    longest = max(len(row) for row in rows)
    ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows], device=device)
    lengths = torch.tensor([[len(row)] for row in rows], device=device)
    starts = torch.tensor([[len(p)] for p in prompts], device=device)
    position = torch.arange(longest, device=device)[None]
    return ids, ((position >= starts) & (position < lengths))[:, 1:].float()


def score_tokens(
    head: Any,
    hidden_NH: "torch.Tensor",
    targets_N: "torch.Tensor",
    temperature: float,
    chunk_tokens: int,
    entropy: bool,
) -> tuple["torch.Tensor", "torch.Tensor | None"]:
    """log p of each target token, [N], and the entropy of the distribution it is from, [N]; float32, nats.

    `head` maps hidden states to logits, in its own precision, as the sampling engine does it; all after that is float32. With
    gradients each chunk is computed again in the backward pass instead of being kept.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    def chunk(hidden_CH: torch.Tensor, targets_C: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits_CV = head(hidden_CH).float()
        if temperature != 1.0:
            logits_CV = logits_CV.div_(temperature)
        total_C = torch.logsumexp(logits_CV, dim=-1)
        logprobs_C = logits_CV.gather(-1, targets_C[:, None])[:, 0] - total_C
        if not entropy:
            return (logprobs_C,)
        return logprobs_C, total_C - (torch.softmax(logits_CV, dim=-1) * logits_CV).sum(dim=-1)

    # split, whose backward is one concatenation: a slice's is a gradient of full size, once for each chunk.
    pieces = zip(hidden_NH.split(chunk_tokens), targets_N.split(chunk_tokens), strict=True)
    if torch.is_grad_enabled():
        results = [checkpoint(chunk, hidden, targets, use_reentrant=False) for hidden, targets in pieces]
    else:
        results = [chunk(hidden, targets) for hidden, targets in pieces]
    columns = [torch.cat(column) for column in zip(*results, strict=True)]
    return columns[0], columns[1] if entropy else None


class Scorer:
    """Scores under a Hugging Face causal language model, of which its output layer is asked for scores in place of logits.

    While `scores` runs, the layer's own `forward` is another one: it still is called once, by the model's forward, with the
    hidden states. So DeepSpeed's hooks see one call of one module, gather its partitioned weights once, and every rank does so
    equally often, however many chunks each has. The model may be wrapped, by PEFT and then by an engine, before or later.
    """

    def __init__(self, model: Any, name: str) -> None:
        """`name` is for errors.

        Raises:
            UserError: the model does something else to its logits afterwards (soft-capping, scaling): scores would be wrong.
        """
        self._head = model.get_output_embeddings()
        if not self._head_gives_the_logits(model):
            raise UserError(
                f"{name}: this architecture ({type(model).__name__}) changes its logits after the output layer, and the "
                "scores of its tokens cannot be computed in chunks; choose another model"
            )

    def _head_gives_the_logits(self, model: Any) -> bool:
        import torch

        if self._head is None:
            return False
        given: list[torch.Tensor] = []
        device = next(model.parameters()).device
        handle = self._head.register_forward_hook(lambda _module, _args, output: given.append(output.clone()))
        try:
            with torch.no_grad():
                output = model(torch.arange(4, device=device)[None], use_cache=False)
        finally:
            handle.remove()
        return len(given) == 1 and torch.equal(given[0].float(), output.logits.float())

    def scores(
        self,
        model: Any,
        ids: "torch.Tensor",
        mask: "torch.Tensor",
        temperature: float,
        chunk_tokens: int = CHUNK_TOKENS,
        entropy: bool = False,
    ) -> Scores:
        """Scores at the places of a mask [B, T-1], of right-padded texts [B, T]. `model`: what the scorer was made for, or
        what it is wrapped in.

        No attention mask is passed: after right-padding nothing that is scored attends to a pad, and a mask would have [T, T]
        entries a text.
        """
        with self._asked(ids[:, 1:], mask.bool(), temperature, chunk_tokens, entropy):
            stacked = model(ids, use_cache=False).logits
        return Scores(stacked[..., 0], stacked[..., 1] if entropy else None)

    @contextmanager
    def _asked(
        self, targets: "torch.Tensor", mask: "torch.Tensor", temperature: float, chunk_tokens: int, entropy: bool
    ) -> Iterator[None]:
        """Let the output layer return scores [B, T-1, 1 or 2]."""
        import torch

        logits = self._head.forward

        def forward(_head: Any, hidden: torch.Tensor) -> torch.Tensor:
            wanted_NH = hidden[:, :-1][mask]
            columns = score_tokens(logits, wanted_NH, targets[mask], temperature, chunk_tokens, entropy)
            zeros = torch.zeros(mask.shape, device=hidden.device)
            return torch.stack([zeros.masked_scatter(mask, c) for c in columns if c is not None], dim=-1)

        before = vars(self._head).get("forward")
        self._head.forward = MethodType(forward, self._head)
        try:
            yield
        finally:
            if before is None:
                del self._head.forward
            else:
                self._head.forward = before


def response_logprobs(
    model: "torch.nn.Module",
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    temperature: float,
    chunk_tokens: int = CHUNK_TOKENS,
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[float]]:
    """log p(token) of every response token under a model, float32, nats, in the order given; no gradient.

    `batch_tokens`: padded tokens of one forward pass.

    Raises:
        UserError: see `Scorer`.
    """
    import torch

    scorer = Scorer(model, "the model")
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    device = next(model.parameters()).device
    found: dict[int, list[float]] = {}
    for batch in micro_batches(lengths, batch_tokens):
        ids, mask = pad_right([prompts[i] for i in batch], [responses[i] for i in batch], device)
        with torch.no_grad():
            logprobs, _ = scorer.scores(model, ids, mask, temperature, chunk_tokens)
        beat()
        for row, i in enumerate(batch):
            found[i] = logprobs[row, len(prompts[i]) - 1 : lengths[i] - 1].tolist()
    return [found[i] for i in range(len(lengths))]
