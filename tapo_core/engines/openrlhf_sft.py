"""Supervised fine-tuning on OpenRLHF: `Actor`, `SFTLoss` and `DeepspeedStrategy`, fed with prompts and completions."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tapo_core.config import SftConfig
from tapo_core.config_update import UpdateConfig
from tapo_core.engines.openrlhf_actor import OpenRlhfActor
from tapo_core.engines.protocols import PolicyRef, StepMetrics, TrainingExample
from tapo_core.files import publish_folder


def batches_of(n_examples: int, config: SftConfig, seed: int) -> Iterator[list[int]]:
    """The indices of each optimizer step's examples: every epoch all of them, in an order of its own."""
    for epoch in range(config.epochs):
        order = list(range(n_examples))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        for start in range(0, n_examples, config.batch_size):
            yield order[start : start + config.batch_size]


class OpenRlhfFineTuner(OpenRlhfActor):
    """`FineTuner` on OpenRLHF and DeepSpeed in this process (see `engines.protocols.FineTuner`)."""

    def __init__(self, config: SftConfig, adam: UpdateConfig, dtype: str, seed: int) -> None:
        """`adam`: where Adam's betas, the weight decay and the ZeRO stage are."""
        # Temperature 1: the likelihood of a text is the model's own, however it was sampled.
        super().__init__(dtype, 1.0, seed, adam, config.learning_rate, config.max_grad_norm)
        self._config = config

    def begin(self, policy: PolicyRef, n_steps: int) -> None:
        """Take a policy's weights, with an optimizer and a schedule for so many steps."""
        warmup = self._config.warmup_steps
        # One more than there are: the schedule's first value is skipped, and a cosine's last is 0.
        total = n_steps + 1
        self._load(
            policy,
            {
                "lr_scheduler": {"cosine": "cosine", "constant": "constant_with_warmup"}[self._config.schedule],
                # OpenRLHF rounds ratio * steps up; half a step less keeps a rounding error from adding a whole one.
                "lr_warmup_ratio": max(0.0, warmup - 0.5) / total,
                "scheduler_steps": total,
            },
        )
        self._actor.train()

    def step_share(self, batch: Sequence[TrainingExample]) -> StepMetrics:
        """This rank's part of one optimizer step on the mean negative log-likelihood (nats) of all completion tokens of the
        batch.
        """
        from openrlhf.models import SFTLoss

        loss_function = SFTLoss(token_level_loss=True)
        n_tokens = float(sum(len(example.token_ids_T) for example in batch))
        lengths = [len(example.prompt_token_ids) + len(example.token_ids_T) for example in batch]
        parts = self._batches(lengths, self._config.micro_batch_tokens)
        n_ranks = self._strategy.world_size
        metrics = {"loss": 0.0, "learning_rate": float(self._scheduler.get_last_lr()[0])}
        for number, part in enumerate(parts):
            rows = [batch[i] for i in part]
            ids, completion = self._pad([r.prompt_token_ids for r in rows], [r.token_ids_T for r in rows])
            # The whole batch's tokens, so that micro-batches add up to its mean whatever is in each.
            logprobs, _ = self._forward(ids, completion)
            loss = loss_function(logprobs, completion, dp_size=n_ranks, batch_num_tokens=n_tokens)
            metrics["loss"] += float(loss.detach()) / n_ranks
            metrics["grad_norm"] = self._accumulate(loss, last=number == len(parts) - 1)
        return StepMetrics(metrics)

    def fine_tune(
        self,
        policy: PolicyRef,
        examples: Sequence[TrainingExample],
        seed: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[StepMetrics]:
        """All optimizer steps, from a policy's weights on."""
        batches = list(batches_of(len(examples), self._config, seed))
        self.begin(policy, len(batches))
        return run_steps(batches, examples, self.step_share, progress)

    def publish(self, folder: Path) -> None:
        """Write the weights, atomically. The optimizer's state stays behind: training begins with its own."""
        with publish_folder(folder) as temporary:
            self.write(temporary, optimizer=False)


def run_steps(
    batches: Sequence[Sequence[int]],
    examples: Sequence[TrainingExample],
    step: Callable[[Sequence[TrainingExample]], StepMetrics],
    progress: Callable[[int, int], None] | None,
) -> list[StepMetrics]:
    """One optimizer step after the other."""
    metrics = []
    for number, batch in enumerate(batches, start=1):
        metrics.append(step([examples[i] for i in batch]))
        if progress is not None:
            progress(number, len(batches))
    return metrics
