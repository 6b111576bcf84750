"""Pictures of a run, drawn from its store."""

from pathlib import Path

from tapo_core.records import Evaluation
from tapo_core.store import load, query


def held_out_pass_at_1(run_folder: Path) -> list[Evaluation]:
    """pass@1 on the held-out queries of every policy version that was evaluated, by iteration."""
    found = load(run_folder, Evaluation, dataset="held_out", metric="pass@1")
    newest = {e.iteration: e for e in sorted(found, key=lambda e: (e.iteration, e.again or 1))}
    return list(newest.values())


def learning_curve(run_folder: Path, picture: Path) -> Path:
    """Draw training accuracy by iteration and held-out pass@1 with its intervals; returns the picture's path."""
    from matplotlib.figure import Figure

    summary = query(run_folder, "SELECT iteration, accuracy FROM iteration_summary ORDER BY iteration")
    evaluations = held_out_pass_at_1(run_folder)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(summary.iteration, summary.accuracy, color="tab:gray", label="training rollouts (before each update)")
    values = [e.value for e in evaluations]
    below = [e.value - e.low for e in evaluations]
    above = [e.high - e.value for e in evaluations]
    label = f"held-out pass@1, {evaluations[0].confidence:.0%} interval" if evaluations else "held-out pass@1"
    axes.errorbar(
        [e.iteration for e in evaluations],
        values,
        yerr=[below, above],
        color="tab:blue",
        marker="o",
        capsize=3,
        label=label,
    )
    axes.set(xlabel="iteration", ylabel="accuracy", ylim=(0, 1), title=run_folder.name)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(picture, dpi=120)
    return picture
