"""The update step on OpenRLHF: `Actor`, `PolicyLoss` and `DeepspeedStrategy`, fed with our advantages and weights."""

import math
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tapo_core.config import TokenWeightConfig
from tapo_core.config_update import OffPolicyConfig, UpdateConfig
from tapo_core.engines.hf import load_model
from tapo_core.engines.openrlhf_actor import OpenRlhfActor
from tapo_core.engines.openrlhf_runtime import check_optimizer, load_optimizer
from tapo_core.engines.policy_loss import n_outside, policy_losses
from tapo_core.engines.protocols import PolicyRef, StepMetrics, TokenScores, TrainingTrajectory, UpdateReport
from tapo_core.engines.scoring import Scores, response_logprobs
from tapo_core.files import publish_folder
from tapo_core.records import AdvantageGroup
from tapo_core.token_weights import ood_token_weights

if TYPE_CHECKING:
    import torch

#: Metrics that every rank has the same value of.
_SHARED = frozenset({"grad_norm", "learning_rate"})
_GROUPS = (AdvantageGroup.ORIGINAL, AdvantageGroup.CONSTRUCTED)


class OpenRlhfTrainer(OpenRlhfActor):
    """`PolicyTrainer` on OpenRLHF and DeepSpeed in this process (see `engines.protocols.PolicyTrainer`)."""

    def __init__(
        self,
        config: UpdateConfig,
        token_weight: TokenWeightConfig,
        dtype: str,
        temperature: float,
        seed: int,
        reference: Path,
        off_policy: OffPolicyConfig,
    ) -> None:
        """`reference`: the checkpoint that `kl_coefficient` keeps the policy near; loaded only if it is above 0."""
        super().__init__(dtype, temperature, seed, config, config.learning_rate, config.max_grad_norm)
        self._config = config
        self._token_weight = token_weight
        self._reference_checkpoint = reference
        self._off_policy = off_policy

    def load_policy(self, policy: PolicyRef) -> None:
        """Take weights and optimizer state from files."""
        check_optimizer(policy)
        self.load_checked(policy)

    def load_checked(self, policy: PolicyRef) -> None:
        """Take weights and optimizer state from files that `check_optimizer` has seen."""
        schedule = {
            # Constant in the end: a run may be continued for any number of iterations, which no decaying schedule allows.
            "lr_scheduler": "constant_with_warmup",
            "lr_warmup_ratio": 1.0,
            "scheduler_steps": self._config.warmup_steps,
        }
        self._load(policy, schedule)
        if policy.optimizer is not None:
            load_optimizer(self._actor.model, policy.optimizer, self._strategy.world_size)
        self._policy_version_id = policy.policy_version_id

    def score(self, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> list[TokenScores]:
        """Log-probabilities and entropies of responses."""
        scores = self.score_share(prompts, responses)
        return [scores[i] for i in range(len(prompts))]

    def score_share(self, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> dict[int, TokenScores]:
        """What of all responses is this rank's to score, by index."""
        import torch

        self._wake()
        self._actor.eval()
        scores: dict[int, TokenScores] = {}
        lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
        for batch in self._batches(lengths, self._config.micro_batch_tokens):
            ids, response = self._pad([prompts[i] for i in batch], [responses[i] for i in batch])
            with torch.no_grad():
                logprobs, entropy = self._forward(ids, response, entropy=True)
            assert entropy is not None
            for row, i in enumerate(batch):
                span = slice(len(prompts[i]) - 1, lengths[i] - 1)
                scores[i] = TokenScores(logprobs[row, span].tolist(), entropy[row, span].tolist())
        return scores

    def update(self, trajectories: Sequence[TrainingTrajectory], seed: int) -> UpdateReport:
        """All optimizer steps of one iteration. Of several ranks, this one's part; theirs make the whole by `joined_reports`."""
        if self._policy_version_id is None:
            raise RuntimeError("load_policy comes before update")
        if not self._config.one_step and any(t.old_logprobs_T is None for t in trajectories):
            raise ValueError("an update of several steps needs the old log-probabilities of every trajectory")
        self._policy_version_id = None
        self._wake()
        self._actor.train()
        steps = []
        found: dict[str, list[float]] = {}
        for epoch in range(self._config.epochs):
            order = list(range(len(trajectories)))
            random.Random(f"{seed}/{epoch}").shuffle(order)
            for chunk in _deal(order, self._config.minibatches):
                steps.append(self._step([trajectories[i] for i in chunk], found))
        return UpdateReport(steps, found)

    @cached_property
    def _reference_model(self) -> "torch.nn.Module":
        return load_model(self._reference_checkpoint, self._dtype, self._device)

    def _reference_logprobs(self, trajectories: Sequence[TrainingTrajectory]) -> list[list[float]]:
        """The reference model's log-probabilities of each trajectory's response tokens."""
        return response_logprobs(
            self._reference_model,
            [t.prompt_token_ids for t in trajectories],
            [t.response_token_ids_T for t in trajectories],
            self._temperature,
            self._config.score_chunk_tokens,
            self._config.micro_batch_tokens,
        )

    def _step(self, minibatch: Sequence[TrainingTrajectory], found: dict[str, list[float]]) -> StepMetrics:
        """This rank's part of one optimizer step: L = L_GRPO(original) + lambda * L(constructed), each averaged over its own
        group of the whole minibatch.

        With a KL term, each group's loss also has kl_coefficient * k3(policy, reference), averaged in the same way. `found` is
        given the old log-probabilities of trajectories that came without.
        """
        from openrlhf.models.loss import aggregate_loss
        from openrlhf.models.utils import compute_approx_kl

        losses = policy_losses(self._config, self._off_policy)
        members = {g: [t for t in minibatch if t.group == g] for g in _GROUPS}
        totals = {
            g: {
                "batch_num_tokens": float(sum(len(t.response_token_ids_T) for t in rows)),
                "global_batch_size": float(len(rows)),
            }
            for g, rows in members.items()
        }
        scale = {AdvantageGroup.ORIGINAL: 1.0, AdvantageGroup.CONSTRUCTED: self._config.lambda_constructed}
        has_kl = self._config.kl_coefficient > 0.0
        names = ("loss", "clip_fraction", "kl", *(("reference_kl",) if has_kl else ()))
        metrics = {"loss": 0.0, "learning_rate": float(self._scheduler.get_last_lr()[0])}
        for group, rows in members.items():
            metrics |= {f"{name}/{group}": 0.0 for name in names} if rows else {}
        if self._off_policy.correction != "off" and members[AdvantageGroup.ORIGINAL]:
            metrics["off_policy_outside/original"] = 0.0
        lengths = [len(t.prompt_token_ids) + len(t.response_token_ids_T) for t in minibatch]
        batches = self._batches(lengths, self._config.micro_batch_tokens)
        n_ranks = self._strategy.world_size
        for number, batch in enumerate(batches):
            rows = [minibatch[i] for i in batch]
            ids, response = self._pad([t.prompt_token_ids for t in rows], [t.response_token_ids_T for t in rows])
            scores = self._forward(ids, response, entropy=self._weighs_anew)
            logprobs = scores.logprobs
            total = 0.0 * logprobs.sum()  # for a rank that has none left
            old_BT = self._old_logprobs(rows, response, logprobs, found)
            old = self._spread(old_BT, response)
            sampled = self._spread(
                [
                    o if t.sampled_logprobs_T is None else t.sampled_logprobs_T
                    for t, o in zip(rows, old_BT, strict=True)
                ],
                response,
            )
            weights = self._weights(rows, response, scores)
            advantage = self._spread(
                [[t.advantage * w for w in ws] for t, ws in zip(rows, weights, strict=True)], response
            )
            if has_kl:
                reference = self._spread(self._reference_logprobs(rows), response)
            for group in _GROUPS:
                chosen = response * self._column([t.group == group for t in rows])
                share = float(chosen.sum()) / max(totals[group]["batch_num_tokens"], 1.0)
                if share == 0.0:
                    continue
                loss, clipped, kl, _, _ = losses[group](
                    logprobs,
                    old,
                    advantage,
                    action_mask=chosen,
                    rollout_log_probs=sampled,
                    dp_size=n_ranks,
                    **totals[group],
                )
                if group is AdvantageGroup.ORIGINAL and self._off_policy.correction != "off":
                    by_rollout = self._off_policy.correction == "seq-mask-tis"
                    units = totals[group]["global_batch_size" if by_rollout else "batch_num_tokens"]
                    outside = n_outside(old, sampled, chosen, self._off_policy)
                    metrics["off_policy_outside/original"] += outside / units
                if has_kl:
                    distance = aggregate_loss(
                        compute_approx_kl(logprobs, reference, kl_estimator="k3"),
                        chosen,
                        token_level_loss=self._config.loss_aggregation == "token",
                        dp_size=n_ranks,
                        **totals[group],
                    )
                    metrics[f"reference_kl/{group}"] += float(distance.detach()) / n_ranks
                    loss = loss + self._config.kl_coefficient * distance
                part = scale[group] * loss
                total = total + part
                metrics[f"loss/{group}"] += float(loss.detach()) / n_ranks
                metrics[f"clip_fraction/{group}"] += float(clipped) * share
                metrics[f"kl/{group}"] += float(kl) * share
                metrics["loss"] += float(part.detach()) / n_ranks
            metrics["grad_norm"] = self._accumulate(total, last=number == len(batches) - 1)
        return StepMetrics(metrics)

    def _old_logprobs(
        self,
        rows: Sequence[TrainingTrajectory],
        response: "torch.Tensor",
        logprobs: "torch.Tensor",
        found: dict[str, list[float]],
    ) -> list[list[float]]:
        """Log-probabilities of a micro-batch's response tokens under the policy before the update: those that came with it, or
        its own, which are then put into `found`: the ratio is 1, and its gradient that of log p.
        """
        old = []
        for row, trajectory in enumerate(rows):
            own = trajectory.old_logprobs_T
            if own is None:
                own = found[trajectory.subject_id] = _chosen(logprobs[row], response[row])
            old.append(own)
        return old

    @property
    def _weighs_anew(self) -> bool:
        """Whether OTS weights come from the policy as it is at each step."""
        return self._token_weight.enabled and self._token_weight.policy == "current"

    def _weights(
        self, rows: Sequence[TrainingTrajectory], response: "torch.Tensor", scores: Scores
    ) -> list[list[float]]:
        """OTS weights of a micro-batch's response tokens: those that came with it, or the current policy's."""
        if scores.entropy is None:
            return [t.weights_T for t in rows]
        weights = []
        for row, trajectory in enumerate(rows):
            if trajectory.group is AdvantageGroup.ORIGINAL:
                weights.append(trajectory.weights_T)
                continue
            new, entropies = (_chosen(values[row], response[row]) for values in (scores.logprobs, scores.entropy))
            weights.append(ood_token_weights(new, entropies, self._token_weight))
        return weights

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
            self.write(temporary, optimizer=True)
        self.holds(policy_version_id)

    def holds(self, policy_version_id: str) -> None:
        """Be told the version that the weights were published as."""
        self._policy_version_id = policy_version_id


def _chosen(values: "torch.Tensor", mask: "torch.Tensor") -> list[float]:
    """The values [T-1] at the places of a mask [T-1]: what `_spread` puts there."""
    found: list[float] = values.detach()[mask.bool()].tolist()
    return found


def joined(shares: Sequence[Sequence[StepMetrics]]) -> list[StepMetrics]:
    """The metrics of each optimizer step from every rank's part of them: sums, but for what all ranks share."""
    return [
        StepMetrics(
            {
                name: value if name in _SHARED else math.fsum(part.values[name] for part in parts)
                for name, value in parts[0].values.items()
            }
        )
        for parts in zip(*shares, strict=True)
    ]


def joined_reports(shares: Sequence[UpdateReport]) -> UpdateReport:
    """What all ranks did, from every one's part of it."""
    found = {subject: logprobs for share in shares for subject, logprobs in share.old_logprobs_T.items()}
    return UpdateReport(joined([share.steps for share in shares]), found)


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
