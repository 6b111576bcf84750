"""A trainable policy on OpenRLHF and DeepSpeed in this process: what the update step and supervised fine-tuning share."""

import importlib.metadata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapo_core.config_update import UpdateConfig
from tapo_core.engines.environment import has_gpu
from tapo_core.engines.hf import load_model, load_tokenizer, stop_tokens_of
from tapo_core.engines.lora import add_adapters, save_merged
from tapo_core.engines.openrlhf_runtime import import_openrlhf, make_strategy
from tapo_core.engines.protocols import PolicyRef
from tapo_core.engines.scoring import Scorer, Scores, micro_batches, pad_right
from tapo_core.engines.stops import declare_stops
from tapo_core.files import fsync_tree
from tapo_core.heartbeat import beat
from tapo_core.ids import derive_seed

if TYPE_CHECKING:
    import torch


def rank_batches(lengths: Sequence[int], max_tokens: int, n_ranks: int) -> list[list[list[int]]]:
    """Micro-batches (indices) of each rank: every sequence is in one of them, the ranks' tokens are balanced, and every rank
    has as many, since all of them work through theirs together. [] stands for none, where a rank has fewer of its own.
    """
    parts = _balanced(lengths, n_ranks)
    batches = [
        [[part[i] for i in batch] for batch in micro_batches([lengths[i] for i in part], max_tokens)] for part in parts
    ]
    most = max(len(own) for own in batches)
    return [own + [[] for _ in range(most - len(own))] for own in batches]


def _balanced(lengths: Sequence[int], n_parts: int) -> list[list[int]]:
    """Indices in parts of nearly equal total length, ascending within each."""
    if n_parts == 1:  # as OpenRLHF's partitioning would, but it takes as long as scoring some hundred sequences
        return [list(range(len(lengths)))]
    if len(lengths) <= n_parts:
        return [[i] if i < len(lengths) else [] for i in range(n_parts)]
    import_openrlhf()
    from openrlhf.utils.seqlen_balancing import get_seqlen_balanced_partitions

    parts: list[list[int]] = get_seqlen_balanced_partitions(list(lengths), n_parts, equal_size=False)
    return parts


def openrlhf_name() -> str:
    """The engine with its version, as it is stored."""
    return f"openrlhf {importlib.metadata.version('openrlhf')}"


class OpenRlhfActor:
    """OpenRLHF's `Actor` under a `DeepspeedStrategy`, with its tokenizer, optimizer and schedule.

    One rank of those that share a model's training: torch.distributed's ranks, or this process alone.
    """

    def __init__(
        self, dtype: str, temperature: float, seed: int, adam: UpdateConfig, learning_rate: float, max_grad_norm: float
    ) -> None:
        """`adam`: where Adam's betas, the weight decay and the ZeRO stage are."""
        self.name = openrlhf_name()
        self._dtype = dtype
        self._temperature = temperature
        self._seed = seed
        self._adam = adam
        self._learning_rate = learning_rate
        self._max_grad_norm = max_grad_norm
        self._device = "cuda" if has_gpu() else "cpu"
        self._strategy: Any = None
        self._actor: Any = None
        self._optimizer: Any = None
        self._scheduler: Any = None
        self._tokenizer: Any = None
        self._scorer: Any = None
        self._policy_version_id: str | None = None
        self._asleep = False

    @property
    def policy_version_id(self) -> str | None:
        """The policy version the weights equal."""
        return self._policy_version_id

    def _load(self, policy: PolicyRef, schedule: dict[str, Any]) -> None:
        """Take a policy's weights, with a fresh optimizer. `schedule`: OpenRLHF's settings of the learning rate."""
        import_openrlhf()
        from openrlhf.models import Actor

        self.close()
        if self._strategy is None:
            self._strategy = make_strategy(
                self._adam.zero_stage, self._max_grad_norm, self._dtype, self._seed, self._adam.offload == "optimizer"
            )
        checkpoint = policy.checkpoint
        # Actor's own loading would trust_remote_code, and its forward makes all logits of a text: `Scorer` does not.
        actor = Actor(load_model(checkpoint, self._dtype, self._device))
        self._tokenizer = load_tokenizer(checkpoint)
        declare_stops(actor.model, self._tokenizer, stop_tokens_of(policy))
        actor.model.config.use_cache = False
        self._scorer = Scorer(actor.model, str(checkpoint))
        if self._adam.lora_rank:
            actor.model = add_adapters(actor.model, self._adam, derive_seed(self._seed, 0, "lora"))
        if self._adam.gradient_checkpointing:
            actor.gradient_checkpointing_enable()
        settings = {
            "optim": "adam",
            "adam": {
                "lr": self._learning_rate,
                "betas": list(self._adam.adam_betas),
                "eps": 1e-8,
                "weight_decay": self._adam.weight_decay,
            },
            "max_norm": self._max_grad_norm,
            **schedule,
        }
        self._actor, self._optimizer, self._scheduler = self._strategy.prepare((actor, settings))
        # The schedule begins at rate 0, which would make the first update do nothing; skipping that value is meant.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
            self._scheduler.step()

    def _pad(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Right-padded ids [B, T], and response mask [B, T-1]; index t of the mask is about token t+1.

        Of no sequences: one of two tokens without a response, since a rank that has none left still works beside the others.
        """
        # Any token will do: what is padded has no loss, and later tokens do not see it. Not every tokenizer has one for it.
        pad = self._tokenizer.pad_token_id or 0
        if not prompts:
            prompts, responses = [[pad] * 2], [[]]
        return pad_right(prompts, responses, self._device, pad)

    def _forward(self, ids: "torch.Tensor", response: "torch.Tensor", entropy: bool = False) -> Scores:
        """log p of the response tokens and, if asked, entropies: [B, T-1], nats, 0 at all other places."""
        beat()  # the micro-batch before this one is done
        chunk = self._adam.score_chunk_tokens
        return self._scorer.scores(self._actor.model, ids, response, self._temperature, chunk, entropy)

    def _accumulate(self, loss: "torch.Tensor", last: bool) -> float:
        """Add a micro-batch's gradient; after the last one take the optimizer step. Gradient norm so far, before clipping."""
        self._actor.model.set_gradient_accumulation_boundary(last)
        self._strategy.backward(loss, self._actor, self._optimizer)
        norm = self._gradient_norm()
        self._strategy.optimizer_step(self._optimizer, self._actor, self._scheduler)
        if last and self._adam.zero_stage > 0:
            norm = self._strategy.get_grad_norm(self._actor)
        beat()
        return norm

    def _gradient_norm(self) -> float:
        """Norm of the gradients gathered so far. DeepSpeed tells it only for ZeRO stages above 0."""
        import torch

        gradients = [p.grad for p in self._actor.model.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def _batches(self, lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
        """This rank's micro-batches (see `rank_batches`)."""
        return rank_batches(lengths, max_tokens, self._strategy.world_size)[self._rank]

    @property
    def _rank(self) -> int:
        import torch.distributed

        return int(torch.distributed.get_rank())

    def write(self, folder: Path, optimizer: bool) -> None:
        """This rank's part of `folder`/hf, and if asked of `folder`/deepspeed. All ranks have to write."""
        if self._adam.lora_rank:
            save_merged(self._strategy, self._actor, self._tokenizer, self._adam, folder / "hf")
        else:
            self._strategy.save_model(self._actor, self._tokenizer, str(folder / "hf"))
        if optimizer:
            self._actor.model.save_checkpoint(str(folder / "deepspeed"), tag="state")
        if self._rank == 0:
            fsync_tree(folder)

    def sleep(self) -> str | None:
        """Give back the device's memory; the policy version that the weights equal still. On a GPU DeepSpeed moves the
        optimizer's state and its copies of the weights to the host, until they are needed. Without a GPU, or without ZeRO, all
        is freed, and has to be loaded again.
        """
        if self._actor is None or self._device == "cpu" or self._adam.zero_stage == 0:
            self.close()
        elif not self._asleep:
            from openrlhf.utils.deepspeed.deepspeed_utils import offload_deepspeed_states

            offload_deepspeed_states(self._actor.model)
            self._asleep = True
        return self._policy_version_id

    def _wake(self) -> None:
        if self._asleep:
            from openrlhf.utils.deepspeed.deepspeed_utils import reload_deepspeed_states

            reload_deepspeed_states(self._actor.model)
            self._asleep = False

    def close(self) -> None:
        """Free the model and the optimizer; the process group stays."""
        self._policy_version_id = None
        self._asleep = False
        if self._actor is not None:
            self._actor.model.destroy()
            self._actor = self._optimizer = self._scheduler = self._scorer = None
