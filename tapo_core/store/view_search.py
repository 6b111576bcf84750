"""Looking for trajectories: the newest iterations first, as far as the time that is given goes.

There is no index of words. A search of a small run looks through all of it; one of a million rollouts says how far it came, and
where to go on.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tapo_core.errors import UserError
from tapo_core.store.commits import StageCommit
from tapo_core.store.reader import readable_files
from tapo_core.store.snapshot import of_iterations, open_reader

_TABLES = frozenset({"rollout", "correction", "query", "verification", "error_location", "verdict", "wrong_rollout"})
_FIRST_ROWS = 4000  #: trajectories of the iterations that are looked through first, to see how long it takes
_CAREFUL = 0.7  #: of the time that is left, how much is planned with


@dataclass(frozen=True, slots=True)
class Filters:
    """What is looked for; None: anything."""

    text: str | None = None  #: in the query's, the trajectory's or the diagnosis' text, in upper or lower case
    iteration: int | None = None
    kind: str | None = None  #: "training", "evaluation" or "constructed"
    verdict: str | None = None
    error_kind: str | None = None  #: of the view `wrong_rollout`
    reward: float | None = None
    parse_outcome: str | None = None
    query: str | None = None  #: its id


@dataclass(frozen=True, slots=True)
class Hit:
    """One trajectory that was found."""

    trajectory_id: str
    kind: str
    iteration: int
    query_id: str
    k: int | None
    n_tokens: int | None
    outcome: str | None
    reward: float | None
    error_kind: str | None  #: only when it was asked for
    parse_outcome: str | None
    query_text: str
    text: str
    diagnosis: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """Hits, and which iterations were looked through for them."""

    hits: Sequence[Hit]
    newest: int | None  #: None: there was nothing to look through
    oldest: int | None
    n_searched: int  #: trajectories of these iterations
    position: str | None  #: where to go on; None: all was looked through


def search(
    run_folder: Path,
    commits: Sequence[StageCommit],
    filters: Filters,
    *,
    position: str | None,
    limit: int,
    seconds: float,
) -> Found:
    """Trajectories by iteration, the newest first, then by id; at most `limit`, from where an earlier search stopped.

    After `seconds` nothing more is begun, so that it takes about as long.

    Raises:
        UserError: `position` is not one that a search gave; or see `open_reader`.
        IntegrityError: a published file is missing or damaged.
    """
    last_iteration, last_id = _read_position(position)
    sizes: dict[int, int] = {}
    for commit in commits:
        rows = commit.row_counts.get("rollout", 0) + commit.row_counts.get("correction", 0)
        begun = last_iteration is None or commit.iteration <= last_iteration - (last_id is None)
        if rows and begun and filters.iteration in (None, commit.iteration):
            sizes[commit.iteration] = sizes.get(commit.iteration, 0) + rows
    left = sorted(sizes, reverse=True)
    deadline, rate = time.monotonic() + seconds, None
    hits: list[Hit] = []
    searched: list[int] = []
    while left and len(hits) <= limit and (not searched or time.monotonic() < deadline):
        began = time.monotonic()
        planned = _FIRST_ROWS if rate is None else rate * _CAREFUL * (deadline - began)
        chunk = [left.pop(0)]
        while left and sum(sizes[one] for one in chunk) + sizes[left[0]] <= planned:
            chunk.append(left.pop(0))
        after = (last_iteration, last_id) if last_iteration in chunk else (None, None)
        hits += _look(run_folder, commits, filters, chunk, after, limit + 1 - len(hits))
        searched += chunk
        rate = sum(sizes[one] for one in chunk) / max(1e-6, time.monotonic() - began)
    go_on = None
    if len(hits) > limit:
        hits = hits[:limit]
        go_on = f"{hits[-1].iteration}:{hits[-1].trajectory_id}"
        searched = [one for one in searched if one >= hits[-1].iteration]
    elif left:
        go_on = str(searched[-1])
    return Found(
        hits,
        newest=searched[0] if searched else None,
        oldest=searched[-1] if searched else None,
        n_searched=sum(sizes[one] for one in searched),
        position=go_on,
    )


def _read_position(position: str | None) -> tuple[int | None, str | None]:
    """Iteration and id of ``12:uuid``, or of ``12``: all of iteration 12 is done."""
    if position is None:
        return None, None
    match = re.fullmatch(r"(\d{1,9})(?::([0-9a-f-]{36}))?", position)
    if match is None:
        raise UserError(f"{position!a} is no place to go on from: begin the search again")
    return int(match[1]), match[2]


def _look(
    run_folder: Path,
    commits: Sequence[StageCommit],
    filters: Filters,
    iterations: Sequence[int],
    after: tuple[int | None, str | None],
    limit: int,
) -> list[Hit]:
    """The first hits in some iterations."""
    wants_error = filters.error_kind is not None
    conditions = {
        "text": "(contains(lower(query.text), lower($text)) OR contains(lower(written.text), lower($text)) "
        "OR contains(lower(written.diagnosis), lower($text)))",
        "kind": "written.kind = $kind",
        "verdict": "verdict.outcome = $verdict",
        "error_kind": "wrong_rollout.error_kind = $error_kind",
        "reward": "verdict.reward = $reward",
        "parse_outcome": "written.parse_outcome = $parse_outcome",
        "query": "written.query_id = TRY_CAST($query AS UUID)",
    }
    given: dict[str, object] = {
        name: getattr(filters, name) for name in conditions if getattr(filters, name) is not None
    }
    where = [conditions[name] for name in given]
    if after[1] is not None:
        where.append("(written.iteration < $after OR written.id > CAST($after_id AS UUID))")
        given |= {"after": after[0], "after_id": after[1]}
    sql = f"""
        WITH written AS (
            SELECT rollout_id AS id, kind, 'rollout' AS subject_kind, iteration, query_id, k, n_tokens, text,
                NULL AS diagnosis, NULL AS parse_outcome
            FROM rollout
            UNION ALL
            SELECT correction_id, 'constructed', 'constructed', iteration, query_id, NULL, NULL,
                coalesce(constructed_text, raw_output), diagnosis, parse_outcome
            FROM correction
        )
        SELECT CAST(written.id AS VARCHAR), written.kind, written.iteration, CAST(written.query_id AS VARCHAR), written.k,
            written.n_tokens, verdict.outcome, verdict.reward, {"wrong_rollout.error_kind" if wants_error else "NULL"},
            written.parse_outcome, query.text, written.text, written.diagnosis
        FROM written
        JOIN query ON query.query_id = written.query_id
        LEFT JOIN verdict ON verdict.subject_kind = written.subject_kind AND verdict.subject_id = written.id
        {"JOIN wrong_rollout ON wrong_rollout.rollout_id = written.id" if wants_error else ""}
        WHERE {" AND ".join(where) or "true"}
        ORDER BY written.iteration DESC, written.id LIMIT {int(limit)}"""
    reader = open_reader(run_folder, wanted=of_iterations(frozenset(iterations)), only=_TABLES, commits=commits)
    with reader as connection, readable_files(run_folder):
        return [Hit(*row) for row in connection.execute(sql, given).fetchall()]
