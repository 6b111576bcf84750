"""Stage commits: one row for each stage that was written, chained by digests."""

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from tapo_core.errors import IntegrityError
from tapo_core.ids import canonical_json, digest
from tapo_core.store.migrate import utc_now

_COLUMNS = (
    "seq, CAST(run_id AS VARCHAR), iteration, stage, config_digest, input_digest, manifest, row_counts, "
    "content_digest, previous_digest, chain_digest, committed_at"
)


@dataclass(frozen=True, slots=True)
class StageCommit:
    """One stage of one iteration, written in one transaction."""

    seq: int  #: 1, 2, ... over all commits of the database
    run_id: str
    iteration: int
    stage: str
    config_digest: str
    input_digest: str
    manifest: dict[str, Any]  #: what the stage hands on: ids, digests, counts
    row_counts: dict[str, int]  #: table -> rows that the stage handed in
    content_digest: str  #: of those rows, whatever their order
    previous_digest: str | None  #: chain_digest of commit seq - 1; None for the first
    chain_digest: str
    committed_at: str  #: UTC, ISO 8601


def chain_digest(
    previous_digest: str | None, run_id: str, iteration: int, stage: str, content_digest: str, manifest: dict[str, Any]
) -> str:
    """What ties a commit to all commits before it."""
    return digest([previous_digest, run_id, iteration, stage, content_digest, manifest])


def _commit(row: tuple[Any, ...]) -> StageCommit:
    seq, run_id, iteration, stage, config, inputs, manifest, row_counts, content, previous, chain, committed_at = row
    return StageCommit(
        seq=seq,
        run_id=run_id,
        iteration=iteration,
        stage=stage,
        config_digest=config,
        input_digest=inputs,
        manifest=json.loads(manifest),
        row_counts=json.loads(row_counts),
        content_digest=content,
        previous_digest=previous,
        chain_digest=chain,
        committed_at=committed_at.replace(tzinfo=datetime.UTC).isoformat(),
    )


def read_commits(
    connection: duckdb.DuckDBPyConnection, where: str = "true", parameters: Sequence[Any] = ()
) -> list[StageCommit]:
    """The commits that fulfil a condition, in the order they were made."""
    sql = f"SELECT {_COLUMNS} FROM stage_commit WHERE {where} ORDER BY seq"
    return [_commit(row) for row in connection.execute(sql, list(parameters)).fetchall()]


def find_commit(connection: duckdb.DuckDBPyConnection, run_id: str, iteration: int, stage: str) -> StageCommit | None:
    """The commit of one stage, if it was made."""
    found = read_commits(connection, "run_id = ? AND iteration = ? AND stage = ?", [run_id, iteration, stage])
    return found[0] if found else None


def append_commit(
    connection: duckdb.DuckDBPyConnection,
    *,
    run_id: str,
    iteration: int,
    stage: str,
    config_digest: str,
    input_digest: str,
    manifest: dict[str, Any],
    row_counts: dict[str, int],
    content_digest: str,
) -> StageCommit:
    """Write the row of a new commit, chained to the last one. Belongs into the transaction that writes the stage."""
    last = read_commits(connection, "seq = (SELECT max(seq) FROM stage_commit)")
    seq = last[0].seq + 1 if last else 1
    previous = last[0].chain_digest if last else None
    row = (
        *(seq, run_id, iteration, stage, config_digest, input_digest),
        *(canonical_json(manifest), canonical_json(row_counts), content_digest, previous),
        *(chain_digest(previous, run_id, iteration, stage, content_digest, manifest), utc_now()),
    )
    connection.execute(f"INSERT INTO stage_commit VALUES ({', '.join('?' * len(row))})", list(row))
    return _commit(row)


def check_chain(commits: Sequence[StageCommit]) -> None:
    """Follow the chain over all commits of a database, from the first to the last.

    Raises:
        IntegrityError: naming the first commit that was changed, moved or taken out.
    """
    previous: str | None = None
    for seq, commit in enumerate(commits, start=1):
        expected = chain_digest(
            previous, commit.run_id, commit.iteration, commit.stage, commit.content_digest, commit.manifest
        )
        if (commit.seq, commit.previous_digest, commit.chain_digest) != (seq, previous, expected):
            raise IntegrityError(
                f"the chain of stage commits breaks at number {seq} (stage {commit.stage} of iteration "
                f"{commit.iteration}): it was changed after it was written. Restore the database from a backup."
            )
        previous = commit.chain_digest
