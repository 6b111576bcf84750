"""What a finished run measured, read through its store as plain rows."""

from pathlib import Path

from tapo_core.comparison import evaluated_samples
from tapo_core.errors import UserError
from tapo_core.records import Run
from tapo_core.stages.evaluate import sampled
from tapo_core.statistics import count
from tapo_core.store import StageCommit, StoreReader, query
from tapo_core.study.plan import PlannedRun
from tapo_core.study.record import CURVES, Measured, Row
from tapo_core.study.runner import minutes_of

DATASET = "held_out"

#: Stages of an iteration in which the policy writes.
_SAMPLING = ("sample", "locate_error", "diagnose_and_correct")


def measure(run: PlannedRun) -> Measured:
    """Read a finished run.

    Raises:
        UserError, IntegrityError: its store cannot be read, or does not tell how many tokens were generated.
    """
    reader = StoreReader(run.folder)
    try:
        (stored,) = reader.load(Run)
        commits = reader.commits()
        problems = []
        for iteration in sorted({commit.iteration for commit in commits if commit.stage == "evaluate"}):
            for problem, (_, samples) in sorted(evaluated_samples(reader, iteration, DATASET).items()):
                counts = count([sampled(rollout, verdict) for rollout, verdict in samples])
                problems.append(
                    {
                        "run": run.name,
                        "iteration": iteration,
                        "problem": problem[:16],
                        "n": counts.n,
                        "n_correct": counts.n_correct,
                        "n_reflecting": counts.n_reflecting,
                        "n_correct_reflecting": counts.n_correct_reflecting,
                    }
                )
    finally:
        reader.release()
    row = {
        "run": run.name,
        "family": run.family,
        "policy": run.policy,
        "variant": run.variant,
        "seed": run.seed,
        "iterations": max(commit.iteration for commit in commits),
        "settings_digest": run.settings_digest,
        "config_digest": stored.config_digest,
        "tapo_version": stored.tapo_version,
        "minutes": minutes_of(run.folder),
    }
    return Measured(row, problems, _curves(run, generated_tokens(run.folder, commits)))


def generated_tokens(run_folder: Path, commits: list[StageCommit]) -> dict[int, int]:
    """Tokens that the policy was made to write for training, up to and with each iteration: rollouts, constructions and what
    locating errors sampled. Not those of evaluations.

    Raises:
        UserError: a commit does not say.
    """
    tokens: dict[int, int] = {0: 0}
    for commit in commits:
        if commit.stage in _SAMPLING:
            if "n_tokens" not in commit.manifest:
                raise UserError(
                    f"{run_folder}: stage {commit.stage} of iteration {commit.iteration} does not say how many tokens were "
                    "generated: it was made by an older version of TAPO; delete the folder and run the study again"
                )
            tokens[commit.iteration] = tokens.get(commit.iteration, 0) + int(commit.manifest["n_tokens"])
    total = 0
    for iteration in sorted(tokens):
        total += tokens[iteration]
        tokens[iteration] = total
    return tokens


def _curves(run: PlannedRun, tokens: dict[int, int]) -> list[Row]:
    frame = query(run.folder, f"SELECT iteration, {', '.join(CURVES)} FROM training_curves ORDER BY iteration")
    rows = []
    for iteration, *values in zip(frame["iteration"], *(frame[name] for name in CURVES), strict=True):
        known = {name: None if value != value else float(value) for name, value in zip(CURVES, values, strict=True)}
        rows.append({"run": run.name, "iteration": int(iteration), "generated_tokens": tokens[int(iteration)], **known})
    return rows
