"""The commits of a store: the ledger's own chain, and the ledger against table stage_commit. What does not agree is reported."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from tapo_core.errors import IntegrityError, UserError
from tapo_core.store.commits import StageCommit, chain_digest
from tapo_core.store.findings import Report
from tapo_core.store.ledger import LedgerEntry
from tapo_core.text import one_line


def check_ledger(
    report: Report, path: Path, lines: Sequence[LedgerEntry | IntegrityError]
) -> dict[int, tuple[StageCommit, int]]:
    """Follow the chain of a ledger's lines. Returns their commits and migration levels, by number; a bad line has none.

    Raises:
        UserError: a line is of an older version.
    """
    listed = {}
    previous: str | None = None
    for seq, line in enumerate(lines, start=1):
        if isinstance(line, IntegrityError):
            report.add("changed", "ledger", one_line(line))
            previous = None
            continue
        commit = line.commit
        if commit is None:
            raise UserError(f"{path} line {seq} is of an older version of TAPO; resume the run")
        listed[seq] = commit, line.migration or 0
        after_a_gap = seq > 1 and previous is None
        expected = chain_digest(
            commit.previous_digest if after_a_gap else previous,
            *(commit.run_id, commit.iteration, commit.stage, commit.content_digest, commit.manifest),
        )
        wrong = [] if after_a_gap or commit.previous_digest == previous else ["previous_digest"]
        wrong += [] if commit.chain_digest == expected else ["chain_digest"]
        if wrong:
            report.add(
                "changed", "ledger", f"{commit_title(commit)} does not follow from the one before", columns=tuple(wrong)
            )
        previous = commit.chain_digest
    return listed


def check_stage_commit(
    report: Report, listed: dict[int, tuple[StageCommit, int]], stored: Sequence[StageCommit]
) -> None:
    """Hold the database's commits against those that the ledger lists."""
    by_seq = {commit.seq: commit for commit in stored}
    for seq in sorted(listed.keys() | by_seq.keys()):
        where = {"table": "stage_commit", "key": f"seq={seq}"}
        if seq not in by_seq:
            report.add("missing", "database", "the ledger has this commit", **where)
        elif seq not in listed:
            report.add(
                "missing",
                "ledger",
                "no line for this commit (a writer adds the last one when it opens next)",
                **where,
            )
        else:
            one, other = listed[seq][0], by_seq[seq]
            columns = [f.name for f in fields(StageCommit) if getattr(one, f.name) != getattr(other, f.name)]
            if columns:
                report.add("changed", "database", "differs from the ledger", columns=tuple(columns), **where)


def commit_title(commit: StageCommit) -> str:
    """How findings name a commit."""
    return f"commit {commit.seq} (stage {commit.stage} of iteration {commit.iteration})"
