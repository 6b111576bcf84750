"""``tapo demo``: train the built-in model with TAPO, then show what the store knows about it."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tapo_core.cli.called import command_line, program
from tapo_core.cli.folders import DEMO_CONFIG
from tapo_core.cli.runs import train_with_progress
from tapo_core.cli.show import print_trajectory
from tapo_core.config import TapoConfig
from tapo_core.config_file import load_config
from tapo_core.plots import held_out_pass_at_1, learning_curve
from tapo_core.records import Correction, ParseOutcome, SubjectKind, Verification, VerificationOutcome
from tapo_core.store import lineage, load, render_tree


def run_demo(output_dir: Path, overrides: Sequence[str]) -> None:
    """Train under a fresh run name, and print results, one trajectory, its lineage and what to try next."""
    name = _fresh_name(output_dir)
    settings = [f"run.name={name}", f"run.output_dir={output_dir}", *overrides]
    config = load_config(DEMO_CONFIG, settings)
    again = command_line("train", _shown(DEMO_CONFIG), overrides=settings)
    train_with_progress(config, again)
    picture = learning_curve(config.run_folder, config.run_folder / "learning_curve.png")
    console = Console()
    _print_results(console, config, picture)
    correction = _example(config.run_folder)
    if correction is None:
        console.print("No constructed trajectory verified as correct in this run.")
    else:
        console.rule("One constructed trajectory")
        print_trajectory(console, config.run_folder, correction)
        console.rule("Its lineage")
        tree = render_tree(lineage(config.run_folder, correction.correction_id))
        console.print(tree, markup=False, highlight=False, no_wrap=True, overflow="ellipsis", crop=True)
    _print_next(console, config, correction)


def _fresh_name(output_dir: Path) -> str:
    number = 1
    while (output_dir / f"demo-{number}").exists():
        number += 1
    return f"demo-{number}"


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _print_results(console: Console, config: TapoConfig, picture: Path) -> None:
    evaluations = held_out_pass_at_1(config.run_folder)
    first, last = evaluations[0], evaluations[-1]
    console.rule("Held-out pass@1")
    for name, result in (("before", first), ("after", last)):
        console.print(
            f"{name:7s} {result.value:6.1%}   {result.confidence:.0%} interval {result.low:.1%} to {result.high:.1%}   "
            f"({result.n_queries} problems x {result.n_samples} samples, policy version {result.iteration})",
            highlight=False,
        )
    apart = "do not overlap" if first.high < last.low or last.high < first.low else "overlap"
    console.print(f"change  {100 * (last.value - first.value):+.1f} points; the intervals {apart}", highlight=False)
    console.print(f"learning curve: {picture}", highlight=False, markup=False)


def _example(run_folder: Path) -> Correction | None:
    """A construction of the last iteration that has any, which parsed and verified as correct."""
    correct = {
        verdict.subject_id
        for verdict in load(run_folder, Verification, subject_kind=SubjectKind.CONSTRUCTED, again=None)
        if verdict.outcome is VerificationOutcome.CORRECT
    }
    parsed = [
        correction
        for correction in load(run_folder, Correction, parse_outcome=ParseOutcome.PARSED)
        if correction.correction_id in correct
    ]
    return max(parsed, key=lambda correction: (correction.iteration, correction.correction_id), default=None)


def _print_next(console: Console, config: TapoConfig, correction: Correction | None) -> None:
    tapo, run = program(), f"--run {shlex.quote(str(config.run_folder))}"
    console.rule("Try next")
    commands = [
        f'{tapo} sql "SELECT iteration, accuracy, n_eligible, n_parsed, n_trained_constructed FROM iteration_summary" {run}',
        f'{tapo} sql "SELECT parse_outcome, count(*) AS n FROM correction GROUP BY ALL ORDER BY n DESC" {run}',
        f'{tapo} sql "SELECT * FROM why_in_batch WHERE iteration = 1 LIMIT 5" {run}',
        command_line("train", _shown(DEMO_CONFIG.with_name("nano_grpo.toml"))),
    ]
    if correction is not None:
        commands.insert(0, f"{tapo} lineage {correction.wrong_rollout_id[:8]} {run}")
    for command in commands:
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)
