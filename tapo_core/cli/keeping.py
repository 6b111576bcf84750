"""``tapo export | import | backup | restore | redact | gc``: a run taken away, brought back, and without what must or can go."""

from pathlib import Path
from typing import Annotated

import typer

from tapo_core.cli.folders import RunFolder, run_folder


def export(
    folder: Annotated[Path, typer.Argument(help="New folder")],
    run: RunFolder = None,
) -> None:
    """Write a run to a folder of its own: Parquet, ledger, digests, and a data set that `datasets` loads. Policies stay."""
    from tapo_core.store.export import export_run

    made = export_run(run_folder(run), folder)
    typer.echo(
        f"{folder}: {made['n_commits']} commits, {len(made['files'])} files; chain digest {made['chain_digest']}"
    )


def import_(
    folder: Annotated[Path, typer.Argument(help="Folder that `tapo export` wrote")],
    run: Annotated[Path, typer.Argument(help="New folder of the run")],
) -> None:
    """Make a run of an export, to query and audit it. It has no policies, so it cannot be trained further."""
    from tapo_core.store.export import import_run

    made = import_run(folder, run)
    typer.echo(f"{run}: {made['n_commits']} commits of run {made['run']}")


def backup(
    folder: Annotated[
        Path, typer.Argument(help="Folder of the backup: new, or one that this command wrote for the run")
    ],
    run: RunFolder = None,
) -> None:
    """Copy a run so that it can be trained further, also while it trains. Again into the same folder: only what is new."""
    from tapo_core.store.backup import backup_run

    made = backup_run(run_folder(run), folder)
    manifest = made.manifest
    typer.echo(
        f"{folder}: {manifest['n_commits']} commits, {len(manifest['files'])} files, of these {made.n_copied} new "
        f"({made.n_bytes / 2**20:.1f} MiB); chain digest {manifest['chain_digest']}"
    )
    for path in manifest["gone"]:
        typer.echo(f"gone, and not in the backup: {path}")
    for path in manifest["outside"]:
        typer.echo(f"not of the run's folder, and not in the backup: {path}")
    if not manifest["can_train"]:
        typer.echo("the newest policy or its optimizer state is gone: a restored run cannot be trained further")


def restore(
    folder: Annotated[Path, typer.Argument(help="Folder that `tapo backup` wrote")],
    run: Annotated[Path, typer.Argument(help="New folder of the run; named like the run to train it further")],
) -> None:
    """Make a run of a backup, to query and audit it, and to train it further."""
    from tapo_core.store.backup import restore_run

    made = restore_run(folder, run)
    typer.echo(f"{run}: {made['n_commits']} commits of run {made['run']}")
    if run.name != made["run"]:
        typer.echo(f"to train it further, its folder has to be named {made['run']}")


def redact(
    query_id: Annotated[str, typer.Argument(help="Id of the query (see the table query)")],
    reason: Annotated[str | None, typer.Option(help="Why; kept with the redaction. Not needed to finish one")] = None,
    run: RunFolder = None,
    outputs: Annotated[
        bool, typer.Option("--outputs", help="Also what models wrote about it, and its gold answer")
    ] = False,
) -> None:
    """Take a query's text out of a run, for good. Everything else stays, and stays provably what it was."""
    from tapo_core.keeping import drop_from_views
    from tapo_core.store.redact import QUOTED_WORDS, redact_query

    folder = run_folder(run)
    done = redact_query(folder, query_id, reason, outputs=outputs)
    for file in drop_from_views(folder, query_id):
        told = "lines about the query were taken out" if file.exists() else "deleted, because it names the query"
        typer.echo(f"{file}: {told}")
    if done.commit is None:
        typer.echo(f"{folder}: nothing of query {query_id} is left to redact")
        return
    rows = ", ".join(f"{count} {table}" for table, count in done.rows.items())
    typer.echo(f"{folder}: redacted in {rows} rows; commit {done.commit.seq}, chain digest {done.commit.chain_digest}")
    for column, count in done.quoted.items():
        typer.echo(
            f"{count} rows of {column} still quote {QUOTED_WORDS} words of it or more (or all of it): --outputs takes them out"
        )
    for other in done.same_words:
        typer.echo(f"query {other} has the same words, and was not redacted")
    typer.echo(
        "not reached: data files, exports and backups made before, checkpoints, TensorBoard, Prefect (docs/store.md)"
    )


def gc(
    run: RunFolder = None,
    keep: Annotated[int, typer.Option(min=1, help="Newest checkpoints to keep")] = 3,
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; without it, only say what would go")] = False,
) -> None:
    """Delete old checkpoints of a run. Kept are the newest, the best on the held-out queries, and every row in the store."""
    from tapo_core.files import delete_folder
    from tapo_core.keeping import spare_checkpoints

    spare = spare_checkpoints(run_folder(run), keep)
    size = 0
    for folder in spare:
        size += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        typer.echo(str(folder))
        if delete:
            delete_folder(folder)
    typer.echo(
        f"{len(spare)} checkpoints, {size / 2**20:.1f} MiB {'deleted' if delete else 'would go; --delete deletes them'}"
    )
