"""The update step on OpenRLHF: `Actor`, `PolicyLoss` and `DeepspeedStrategy`, fed with our advantages and weights."""

import os
import random
import shutil
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapo_core.config import TokenWeightConfig, UpdateConfig
from tapo_core.engines.environment import has_gpu
from tapo_core.engines.hf import load_model, load_tokenizer, response_logprobs
from tapo_core.engines.openrlhf_runtime import load_optimizer, make_strategy
from tapo_core.engines.protocols import PolicyRef, StepMetrics, TokenScores, TrainingTrajectory
from tapo_core.files import fsync_tree, publish_folder
from tapo_core.ids import tree_digest
from tapo_core.records import AdvantageGroup
from tapo_core.token_weights import ood_token_weights

if TYPE_CHECKING:
    import torch

_GROUPS = (AdvantageGroup.ORIGINAL, AdvantageGroup.CONSTRUCTED)


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


class OpenRlhfTrainer:
    """`PolicyTrainer` on OpenRLHF and DeepSpeed in this process (see `engines.protocols.PolicyTrainer`)."""

    def __init__(
        self,
        config: UpdateConfig,
        token_weight: TokenWeightConfig,
        dtype: str,
        temperature: float,
        seed: int,
        reference: Path,
    ) -> None:
        """`reference`: the checkpoint that `kl_coefficient` keeps the policy near; loaded only if it is above 0."""
        import importlib.metadata

        self.name = f"openrlhf {importlib.metadata.version('openrlhf')}"
        self._config = config
        self._token_weight = token_weight
        self._dtype = dtype
        self._temperature = temperature
        self._seed = seed
        self._reference_checkpoint = reference
        self._device = "cuda" if has_gpu() else "cpu"
        self._strategy: Any = None
        self._actor: Any = None
        self._optimizer: Any = None
        self._scheduler: Any = None
        self._tokenizer: Any = None
        self._policy_version_id: str | None = None

    @property
    def policy_version_id(self) -> str | None:
        """The policy version the weights equal."""
        return self._policy_version_id

    def load_policy(self, policy: PolicyRef) -> None:
        """Take weights and optimizer state from files."""
        from tapo_core.engines.openrlhf_runtime import import_openrlhf

        import_openrlhf()
        from openrlhf.models import Actor

        self.close()
        if self._strategy is None:
            self._strategy = make_strategy(self._config, self._dtype, self._seed)
        actor = Actor(load_model(policy.checkpoint, self._dtype, self._device), temperature=self._temperature)
        # Actor sets this only when it loads the model itself, which it does with trust_remote_code.
        actor.packing_samples = False
        actor.model.config.use_cache = False
        self._actor, self._optimizer, self._scheduler = self._strategy.prepare((actor, self._optimizer_settings()))
        if policy.optimizer is None:
            # The schedule begins at rate 0, which would make the first update do nothing; skipping that value is meant.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
                self._scheduler.step()
        else:
            load_optimizer(self._actor.model, policy.optimizer, policy.optimizer_digest, tree_digest(policy.optimizer))
        self._tokenizer = load_tokenizer(policy.checkpoint)
        self._policy_version_id = policy.policy_version_id

    def _optimizer_settings(self) -> dict[str, Any]:
        return {
            "optim": "adam",
            "adam": {
                "lr": self._config.learning_rate,
                "betas": list(self._config.adam_betas),
                "eps": 1e-8,
                "weight_decay": self._config.weight_decay,
            },
            "max_norm": self._config.max_grad_norm,
            # Constant in the end: a run may be continued for any number of iterations, which no decaying schedule allows.
            "lr_scheduler": "constant_with_warmup",
            "lr_warmup_ratio": 1.0,
            "scheduler_steps": self._config.warmup_steps,
        }

    def _pad(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
        """Right-padded ids [B, T], attention mask [B, T] and response mask [B, T-1]; index t of the last scores token t+1."""
        import torch

        rows = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
        longest = max(len(row) for row in rows)
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=self._device)
        lengths = torch.tensor([[len(row)] for row in rows], device=self._device)
        starts = torch.tensor([[len(p)] for p in prompts], device=self._device)
        position = torch.arange(longest, device=self._device)[None]
        attention = (position < lengths).long()
        response = ((position >= starts) & (position < lengths))[:, 1:].float()
        return ids, attention, response

    def score(self, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> list[TokenScores]:
        """Log-probabilities and entropies of responses."""
        import torch

        self._actor.eval()
        scores: dict[int, TokenScores] = {}
        lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
        for batch in micro_batches(lengths, self._config.micro_batch_tokens):
            ids, attention, _ = self._pad([prompts[i] for i in batch], [responses[i] for i in batch])
            with torch.no_grad():
                logprobs, output = self._actor(
                    ids, attention_mask=attention, return_output=True, return_logprobs=True, return_entropy=True
                )
            for row, i in enumerate(batch):
                span = slice(len(prompts[i]) - 1, lengths[i] - 1)
                scores[i] = TokenScores(logprobs[row, span].tolist(), output.entropy[row, span].tolist())
        return [scores[i] for i in range(len(prompts))]

    def update(self, trajectories: Sequence[TrainingTrajectory], seed: int) -> list[StepMetrics]:
        """All optimizer steps of one iteration."""
        if self._policy_version_id is None:
            raise RuntimeError("load_policy comes before update")
        self._policy_version_id = None
        reference = self._reference_logprobs(trajectories)
        self._actor.train()
        steps = []
        for epoch in range(self._config.epochs):
            order = list(range(len(trajectories)))
            random.Random(f"{seed}/{epoch}").shuffle(order)
            for chunk in _deal(order, self._config.minibatches):
                steps.append(self._step([trajectories[i] for i in chunk], [reference[i] for i in chunk]))
        return steps

    @cached_property
    def _reference_model(self) -> "torch.nn.Module":
        return load_model(self._reference_checkpoint, self._dtype, self._device)

    def _reference_logprobs(self, trajectories: Sequence[TrainingTrajectory]) -> list[list[float]]:
        """The reference model's log-probabilities of each trajectory's response tokens; nothing if there is no KL term."""
        if self._config.kl_coefficient == 0.0:
            return [[] for _ in trajectories]
        return response_logprobs(
            self._reference_model,
            [t.prompt_token_ids for t in trajectories],
            [t.response_token_ids_T for t in trajectories],
            self._temperature,
        )

    def _step(self, minibatch: Sequence[TrainingTrajectory], reference: Sequence[Sequence[float]]) -> StepMetrics:
        """One optimizer step: L = L_GRPO(original) + lambda * L(constructed), each averaged over its own group.

        With a KL term, each group's loss also has kl_coefficient * k3(policy, reference), averaged in the same way.
        """
        from openrlhf.models import PolicyLoss
        from openrlhf.models.loss import aggregate_loss
        from openrlhf.models.utils import compute_approx_kl

        loss_function = PolicyLoss(
            clip_eps_low=self._config.clip_low,
            clip_eps_high=self._config.clip_high,
            token_level_loss=self._config.loss_aggregation == "token",
        )
        members = {g: [t for t in minibatch if t.group == g] for g in _GROUPS}
        totals = {
            g: {
                "batch_num_tokens": float(sum(len(t.response_token_ids_T) for t in rows)),
                "global_batch_size": float(len(rows)),
            }
            for g, rows in members.items()
        }
        scale = {AdvantageGroup.ORIGINAL: 1.0, AdvantageGroup.CONSTRUCTED: self._config.lambda_constructed}
        metrics = {"loss": 0.0}
        for group, rows in members.items():
            metrics |= {f"{name}/{group}": 0.0 for name in ("loss", "clip_fraction", "kl")} if rows else {}
        lengths = [len(t.prompt_token_ids) + len(t.response_token_ids_T) for t in minibatch]
        batches = micro_batches(lengths, self._config.micro_batch_tokens)
        engine = self._actor.model
        for number, batch in enumerate(batches):
            rows = [minibatch[i] for i in batch]
            total = None
            ids, attention, response = self._pad(
                [t.prompt_token_ids for t in rows], [t.response_token_ids_T for t in rows]
            )
            logprobs, output = self._actor(
                ids,
                attention_mask=attention,
                return_output=True,
                return_logprobs=True,
                return_entropy=self._weighs_anew,
            )
            old = self._spread([t.old_logprobs_T for t in rows], response)
            weights = self._weights(rows, response, logprobs, output)
            advantage = self._spread(
                [[t.advantage * w for w in ws] for t, ws in zip(rows, weights, strict=True)], response
            )
            for group in _GROUPS:
                chosen = response * self._column([t.group == group for t in rows])
                share = float(chosen.sum()) / max(totals[group]["batch_num_tokens"], 1.0)
                if share == 0.0:
                    continue
                loss, clipped, kl, _, _ = loss_function(
                    logprobs, old, advantage, action_mask=chosen, dp_size=self._strategy.world_size, **totals[group]
                )
                if self._config.kl_coefficient > 0.0:
                    distance = aggregate_loss(
                        compute_approx_kl(
                            logprobs, self._spread([reference[i] for i in batch], response), kl_estimator="k3"
                        ),
                        chosen,
                        token_level_loss=self._config.loss_aggregation == "token",
                        dp_size=self._strategy.world_size,
                        **totals[group],
                    )
                    metrics[f"reference_kl/{group}"] = metrics.get(f"reference_kl/{group}", 0.0) + float(
                        distance.detach()
                    )
                    loss = loss + self._config.kl_coefficient * distance
                part = scale[group] * loss
                total = part if total is None else total + part
                metrics[f"loss/{group}"] += float(loss.detach())
                metrics[f"clip_fraction/{group}"] += float(clipped) * share
                metrics[f"kl/{group}"] += float(kl) * share
                metrics["loss"] += float(part.detach())
            engine.set_gradient_accumulation_boundary(number == len(batches) - 1)
            self._strategy.backward(total, self._actor, self._optimizer)
            metrics["grad_norm"] = self._gradient_norm()
            self._strategy.optimizer_step(self._optimizer, self._actor, self._scheduler)
        if self._config.zero_stage > 0:
            metrics["grad_norm"] = self._strategy.get_grad_norm(self._actor)
        return StepMetrics(metrics)

    @property
    def _weighs_anew(self) -> bool:
        """Whether OTS weights come from the policy as it is at each step."""
        return self._token_weight.enabled and self._token_weight.policy == "current"

    def _weights(
        self, rows: Sequence[TrainingTrajectory], response: "torch.Tensor", logprobs: "torch.Tensor", output: Any
    ) -> list[list[float]]:
        """OTS weights of a micro-batch's response tokens: those that came with it, or the current policy's."""
        if not self._weighs_anew:
            return [t.weights_T for t in rows]
        weights = []
        for row, trajectory in enumerate(rows):
            if trajectory.group is AdvantageGroup.ORIGINAL:
                weights.append(trajectory.weights_T)
                continue
            chosen = response[row].bool()
            new = logprobs[row].detach()[chosen].tolist()
            weights.append(ood_token_weights(new, output.entropy[row].detach()[chosen].tolist(), self._token_weight))
        return weights

    def _gradient_norm(self) -> float:
        """Norm of the gradients gathered so far, before clipping. DeepSpeed tells it only for ZeRO stages above 0."""
        import torch

        gradients = [p.grad for p in self._actor.model.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def _column(self, flags: Sequence[bool]) -> "torch.Tensor":
        import torch

        return torch.tensor(flags, device=self._device, dtype=torch.float32)[:, None]

    def _spread(self, values: Sequence[Sequence[float]], mask: "torch.Tensor") -> "torch.Tensor":
        """Per-response-token values at the places of a [B, T-1] mask, zero elsewhere."""
        import torch

        flat = torch.tensor([v for row in values for v in row], device=self._device, dtype=torch.float32)
        return torch.zeros_like(mask).masked_scatter(mask.bool(), flat)

    def publish(self, folder: Path, policy_version_id: str) -> None:
        """Write weights and optimizer state, atomically."""
        with publish_folder(folder) as temporary:
            self._strategy.save_model(self._actor, self._tokenizer, str(temporary / "hf"))
            self._actor.model.save_checkpoint(str(temporary / "deepspeed"), tag="state")
            fsync_tree(temporary)
        self._policy_version_id = policy_version_id

    def close(self) -> None:
        """Free the model and the optimizer; the process group stays."""
        self._policy_version_id = None
        if self._actor is not None:
            self._actor.model.destroy()
            self._actor = self._optimizer = self._scheduler = None


def _deal(order: Sequence[int], parts: int) -> Iterator[list[int]]:
    """Cut an order into `parts` nearly equal runs, the empty ones left out."""
    size, extra = divmod(len(order), parts)
    start = 0
    for part in range(parts):
        end = start + size + (part < extra)
        if end > start:
            yield list(order[start:end])
        start = end


def drop_optimizer_states(policies: Path, keep: int) -> list[Path]:
    """Delete all but the newest `keep` DeepSpeed checkpoints under a run's policies folder; returns what was deleted."""
    states = sorted(policies.glob("[0-9]*/deepspeed"))
    dropped = states[: len(states) - keep] if len(states) > keep else []
    for state in dropped:
        # Renamed first, so that a half-deleted state is never taken for a whole one.
        doomed = state.with_name(".deleted")
        os.replace(state, doomed)
        shutil.rmtree(doomed)
    return dropped
