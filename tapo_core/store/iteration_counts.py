"""What each iteration of a run came to, by the manifests of its commits: only the ledger is read, however large the run."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tapo_core.records import ParseOutcome, VerificationOutcome
from tapo_core.statistics import Estimate, wilson
from tapo_core.store.commits import StageCommit

CONFIDENCE = 0.95


@dataclass(slots=True)
class IterationCounts:
    """An iteration by its commits. A count that no manifest has is None: that stage was not made, or told nothing."""

    iteration: int
    stages: list[StageCommit] = field(default_factory=list)

    def manifest(self, stage: str) -> dict[str, Any]:
        """What a stage handed on; nothing when it was not made."""
        return next((commit.manifest for commit in self.stages if commit.stage == stage), {})

    def _rows(self, table: str) -> int:
        return sum(commit.row_counts.get(table, 0) for commit in self.stages)

    @property
    def n_rollouts(self) -> int:
        """Rollouts, those of an evaluation included."""
        return self._rows("rollout")

    @property
    def n_constructions(self) -> int:
        """Attempts to diagnose and correct a wrong rollout."""
        return self._rows("correction")

    @property
    def is_trained(self) -> bool:
        """Whether a policy version came out of it."""
        return self.iteration > 0 and self._rows("policy_version") > 0

    @property
    def mean_tokens(self) -> float | None:
        """Mean length of the training rollouts."""
        told = self.manifest("sample")
        return told["n_tokens"] / told["n_rollouts"] if told.get("n_rollouts") and "n_tokens" in told else None

    @property
    def verdicts(self) -> dict[str, int]:
        """Training rollouts by verdict."""
        told = self.manifest("verify")
        return {str(outcome): told[outcome] for outcome in VerificationOutcome if outcome in told}

    @property
    def accuracy(self) -> Estimate | None:
        """Share of correct training rollouts among those with a known verdict, with Wilson's 95% interval."""
        counts = self.verdicts
        known = sum(counts.values()) - counts.get(VerificationOutcome.UNKNOWN, 0)
        return wilson(counts.get(VerificationOutcome.CORRECT, 0), known, CONFIDENCE) if known else None

    @property
    def decisions(self) -> dict[str, int]:
        """Queries, rollouts and constructions by what was decided on them, as in ``query/eligible``."""
        return {name: count for name, count in self.manifest("filter_by_difficulty").items() if "/" in name}

    @property
    def eligible(self) -> Estimate | None:
        """Share of the queries that were eligible for constructions, with Wilson's 95% interval."""
        queries = {name: count for name, count in self.decisions.items() if name.startswith("query/")}
        n = sum(queries.values())
        return wilson(queries.get("query/eligible", 0), n, CONFIDENCE) if n else None

    @property
    def parses(self) -> dict[str, int]:
        """Constructions by parse outcome."""
        told = self.manifest("diagnose_and_correct")
        return {str(outcome): told[outcome] for outcome in ParseOutcome if outcome in told}

    @property
    def parsed(self) -> Estimate | None:
        """Share of the constructions that parsed, with Wilson's 95% interval."""
        n = sum(self.parses.values())
        return wilson(self.parses.get(ParseOutcome.PARSED, 0), n, CONFIDENCE) if n else None

    @property
    def constructed_verdicts(self) -> dict[str, int] | None:
        """Constructed trajectories by verdict; None if the manifest does not tell, as in older runs."""
        told: dict[str, int] | None = self.manifest("diagnose_and_correct").get("verdicts")
        return told

    @property
    def trained(self) -> dict[str, int]:
        """Trajectories that were trained on, by group."""
        told = self.manifest("update_policy")
        return {name: told[f"n_{name}"] for name in ("original", "constructed") if f"n_{name}" in told}

    @property
    def alarms(self) -> list[str]:
        """What its stages warned of."""
        return [alarm for commit in self.stages for alarm in commit.manifest.get("alarms", [])]

    @property
    def evaluated(self) -> dict[str, Estimate]:
        """pass@1 of the policy version that came out, by data set, with the interval that the evaluation stored."""
        told: dict[str, Any] = {}
        for commit in self.stages:
            if commit.stage == "evaluate" or commit.stage.startswith("evaluate-"):
                told |= commit.manifest  # the newest evaluation of a data set
        names = {name: name.removesuffix("pass@1") for name in told if name == "pass@1" or name.endswith("/pass@1")}
        return {
            before.removesuffix("/") or "held_out": Estimate(told[name], told[f"{before}low"], told[f"{before}high"])
            for name, before in names.items()
            if f"{before}low" in told and f"{before}high" in told
        }

    @property
    def committed_at(self) -> str:
        """When its newest stage was committed: UTC, ISO 8601."""
        return max(commit.committed_at for commit in self.stages)


def iteration_counts(commits: Iterable[StageCommit]) -> list[IterationCounts]:
    """Every iteration that has a commit, the first one (which is 0: the start of the run) first."""
    found: dict[int, IterationCounts] = {}
    for commit in commits:
        found.setdefault(commit.iteration, IterationCounts(commit.iteration)).stages.append(commit)
    return [found[iteration] for iteration in sorted(found)]
