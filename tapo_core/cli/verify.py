"""``tapo verify``: verdicts that are unknown, and the same texts judged again."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from tapo_core.cli.folders import RunFolder, run_folder


def verify(
    run: RunFolder = None,
    again: Annotated[
        bool, typer.Option("--again", help="Judge the texts with an unknown verdict again, into new rows")
    ] = False,
    iteration: Annotated[int | None, typer.Option(min=0, help="Of this iteration only")] = None,
) -> None:
    """Show why verdicts are unknown; with --again, judge those texts once more. What was trained on stays as it was."""
    folder = run_folder(run)
    if again:
        for number, counts in _judge_again(folder, iteration):
            told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
            typer.echo(f"iteration {number}: {told}")
    _show_unknown(folder, iteration)


def _judge_again(folder: Path, iteration: int | None) -> list[tuple[int, dict[str, int]]]:
    from tapo_core.assets import Assets
    from tapo_core.records import PolicyVersion, Verification, VerificationOutcome
    from tapo_core.resume import resumable
    from tapo_core.session import Session
    from tapo_core.stages.verify import verify_again
    from tapo_core.store import load

    config, flow = resumable(folder)
    (initial,) = load(folder, PolicyVersion, iteration=0)
    session = Session(config, Assets(Path(initial.checkpoint_path), train="", held_out=""), flow, folder.absolute())
    done = []
    try:
        session.lock()
        session.open_store()
        session.adopt()
        unknown = load(folder, Verification, outcome=VerificationOutcome.UNKNOWN)
        for number in sorted({row.iteration for row in unknown if iteration in (None, row.iteration)}):
            session.enter(number)
            commit = verify_again(session, number)
            if commit is not None:
                done.append((number, commit.manifest))
    finally:
        session.close()
    return done


def _show_unknown(folder: Path, iteration: int | None) -> None:
    from tapo_core.store import query

    where = "" if iteration is None else f"WHERE iteration = {iteration} "
    rows = query(folder, f"SELECT iteration, reason, now FROM unknown_verdict {where}ORDER BY iteration")
    if rows.empty:
        typer.echo("no verdict is unknown")
        return
    counts = Counter(zip(rows["iteration"], rows["reason"], rows["now"].fillna("unknown"), strict=True))
    for (number, reason, now), count in counts.items():
        typer.echo(f"iteration {number}: {count} unknown ({reason}); now {now}")
