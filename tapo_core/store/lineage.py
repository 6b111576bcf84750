"""Where a trajectory came from, and what came of it."""

import contextlib
import dataclasses
import re
import uuid
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import duckdb

from tapo_core.errors import UserError
from tapo_core.ids import canonical_json, iteration_of
from tapo_core.store.commits import StageCommit
from tapo_core.store.publish import TABLES_BY_NAME
from tapo_core.store.snapshot import open_reader, snapshot_commits
from tapo_core.text import one_line, shortened

#: The tables whose rows have a place in the lineage.
_KINDS = (
    *("query", "policy_version", "rollout", "verification", "error_location", "correction", "selection_decision"),
    *("evaluation", "cold_start_example", "origin", "config_change"),
)
#: Of these, those whose rows belong to the whole run.
_WITHOUT_ITERATION = ("query", "origin", "config_change")
#: What the SQL below asks.
_ASKED = (*_KINDS, "advantage", "verdict", "revision_span", "lineage_edge", "lineage_node")
_MIN_PREFIX = 6
_LABEL_WIDTH = 100
_FEW_ITERATIONS = 2  #: whose rows surely fit into memory

# What a trajectory came from and what came of it was committed in its own iteration and, below a policy version, in the next
# one. Three things reach further: queries; the parents of policy versions; and examples of a cold start, made of rollouts of
# any iteration before. A snapshot of just that is enough, and a run may have a thousand iterations.
#
# Two rules keep the walk to one thing's own story. A policy version met on the way is not walked through: below it lies
# everything sampled later, above it (`trained_on`) everything it was trained on; only its parents are followed.
# And a walk goes up or down, never up and then down, so that a rollout's siblings stay out.
_WALK = """
WITH RECURSIVE walked (child_kind, child_id, parent_kind, parent_id, relation, depth) AS (
    SELECT child_kind, child_id, parent_kind, parent_id, relation, 1
    FROM edge WHERE {here}_kind = $kind AND {here}_id = CAST($id AS UUID)
    UNION
    SELECT edge.child_kind, edge.child_id, edge.parent_kind, edge.parent_id, edge.relation, walked.depth + 1
    FROM walked
    JOIN edge ON edge.{here}_kind = walked.{there}_kind AND edge.{here}_id = walked.{there}_id
    WHERE walked.depth <= $max_depth AND {through}
)
SELECT child_kind, CAST(child_id AS VARCHAR), parent_kind, CAST(parent_id AS VARCHAR), relation, min(depth)
FROM walked GROUP BY ALL ORDER BY 6, 1, 2, 5, 3, 4
LIMIT $max_edges + 1
"""
_UP = _WALK.format(
    here="child",
    there="parent",
    through="(edge.child_kind <> 'policy_version' OR edge.relation IN ('parent', 'forked_from', 'under_revision'))",
)
_DOWN = _WALK.format(
    here="parent", there="child", through="edge.parent_kind NOT IN ('policy_version', 'config_change')"
)


@dataclasses.dataclass(frozen=True, slots=True)
class LineageNode:
    """One thing with an id. Example: kind "rollout", label 'k=3 iteration 4 wrong "7 + 12 = 18"'."""

    kind: str  #: a table's name
    id: str
    label: str


@dataclasses.dataclass(frozen=True, slots=True)
class LineageEdge:
    """One step from a parent to a child; `relation` says what the parent is to the child."""

    child_id: str
    parent_id: str
    relation: str


@dataclasses.dataclass(frozen=True, slots=True)
class Lineage:
    """The story of one thing: what it came from and what came of it."""

    start: LineageNode
    ancestors: tuple[LineageEdge, ...]  #: nearest first
    descendants: tuple[LineageEdge, ...]
    nodes: dict[str, LineageNode]  #: every node that is named, by id
    truncated: bool  #: whether steps were left out for depth or number


def lineage(
    run_folder: Path,
    id_or_prefix: str,
    *,
    max_depth: int = 8,
    max_edges: int = 500,
    commits: Sequence[StageCommit] | None = None,
) -> Lineage:
    """The lineage of the thing with an id, or with the only id that begins so (6 characters or more).

    `max_depth` bounds the steps, `max_edges` their number, each way. `commits`: of the snapshot, by who has read the ledger.

    Raises:
        UserError: no such id, or several; no run in the folder.
        IntegrityError: see `open_reader`.
    """
    digits = _digits(id_or_prefix)
    commits = snapshot_commits(run_folder) if commits is None else commits
    with contextlib.ExitStack() as opened:
        near: duckdb.DuckDBPyConnection | None = None
        there = {iteration_of(digits)} if len(digits) == 32 else None  # an id says where its row is
        found = []
        if there is not None:
            near = opened.enter_context(contextlib.closing(_open_near(run_folder, there, max_depth, commits)))
            found = _search(near, digits, "")
        kind, start_id, iteration = _only(found, id_or_prefix) if found else find_id(run_folder, id_or_prefix, commits)
        iterations = _iterations(run_folder, commits, kind, start_id, iteration)
        if near is None or iterations != there:
            near = opened.enter_context(contextlib.closing(_open_near(run_folder, iterations, max_depth, commits)))
        return _story(near, kind, start_id, max_depth, max_edges)


def find_id(
    run_folder: Path, id_or_prefix: str, commits: Sequence[StageCommit] | None = None
) -> tuple[str, str, int | None]:
    """Kind, whole id and iteration (None for what belongs to the whole run) of the thing with an id, or with the only id that
    begins so. It reads the ids of all iterations.

    Raises:
        UserError: no such id, or several; no run in the folder.
        IntegrityError: see `open_reader`.
    """
    digits = _digits(id_or_prefix)
    with contextlib.closing(open_reader(run_folder, only=_KINDS, commits=commits)) as everything:
        # published_: whose ids are text, and need no cast to be compared
        return _only(_search(everything, digits, "published_"), id_or_prefix)


def _digits(id_or_prefix: str) -> str:
    """The hexadecimal digits of an id or its beginning.

    Raises:
        UserError: it is no id.
    """
    digits = id_or_prefix.strip().lower().replace("-", "")
    if not re.fullmatch(rf"[0-9a-f]{{{_MIN_PREFIX},32}}", digits):
        raise UserError(
            f"{id_or_prefix!a} is no id: give a UUID, or {_MIN_PREFIX} or more of its first hexadecimal digits"
        )
    return digits


def _open_near(
    run_folder: Path, iterations: Collection[int], max_depth: int, commits: Sequence[StageCommit]
) -> duckdb.DuckDBPyConnection:
    """A snapshot of what the story of something in these iterations can touch."""
    oldest, newest = min(iterations) - max_depth - 1, max(iterations)

    def near(commit: StageCommit, table: str) -> bool:
        if table == "policy_version":
            return oldest <= commit.iteration <= newest
        return commit.iteration in iterations or table in _WITHOUT_ITERATION

    return open_reader(
        run_folder, wanted=near, only=_ASKED, in_memory=len(iterations) <= _FEW_ITERATIONS, commits=commits
    )


def _search(connection: duckdb.DuckDBPyConnection, digits: str, prefix: str) -> list[tuple[str, str, int | None]]:
    """Kind, id and iteration (None for what belongs to the whole run) of what has an id that begins so; eleven at most."""
    low, high = (str(uuid.UUID(digits.ljust(32, end))) for end in "0f")
    places = (
        f"SELECT '{name}', CAST({key} AS VARCHAR) AS id, {iteration} FROM {prefix}{name} WHERE {key} BETWEEN $low AND $high"
        for name in _KINDS
        for key in (TABLES_BY_NAME[name].key[0],)
        for iteration in ("NULL" if name in _WITHOUT_ITERATION else "iteration",)
    )
    sql = f"{' UNION ALL '.join(places)} ORDER BY id LIMIT 11"
    return connection.execute(sql, {"low": low, "high": high}).fetchall()


def _only(found: list[tuple[str, str, int | None]], id_or_prefix: str) -> tuple[str, str, int | None]:
    if not found:
        raise UserError(f"nothing in this run has an id that begins with {id_or_prefix}")
    if len(found) > 1:
        candidates = ", ".join(f"{kind} {node_id}" for kind, node_id, _ in found[:10])
        raise UserError(
            f"{id_or_prefix} is the beginning of several ids: {candidates}{', ...' if len(found) > 10 else ''}"
        )
    return found[0]


def _iterations(
    run_folder: Path, commits: Sequence[StageCommit], kind: str, node_id: str, iteration: int | None
) -> set[int]:
    """The iterations in which the story of something is."""
    if any("cold_start_example" in commit.row_counts for commit in commits):
        return {commit.iteration for commit in commits}
    if iteration is not None:
        return {iteration, iteration + 1} if kind == "policy_version" else {iteration}
    if kind == "config_change":
        sql = "SELECT first_iteration FROM published_config_change WHERE change_id = $id"
        with contextlib.closing(open_reader(run_folder, only=(kind,), commits=commits)) as connection:
            ((first,),) = connection.execute(sql, {"id": node_id}).fetchall()
        return {first, *(commit.iteration for commit in commits if commit.iteration >= first)}
    # A query: where it was sampled or decided on, and, so that there is one, the first.
    sql = (
        "SELECT iteration FROM published_rollout WHERE query_id = $id "
        "UNION SELECT iteration FROM published_selection_decision WHERE subject_id = $id"
    )
    with contextlib.closing(open_reader(run_folder, only=_KINDS, commits=commits)) as connection:
        return {0, *(row[0] for row in connection.execute(sql, {"id": node_id}).fetchall())}


def _story(connection: duckdb.DuckDBPyConnection, kind: str, start_id: str, max_depth: int, max_edges: int) -> Lineage:
    """Both walks from one thing, and a line about each that is met."""
    connection.execute("CREATE TEMP TABLE edge AS SELECT * FROM lineage_edge")
    up, more_up = _walk(connection, _UP, kind, start_id, max_depth, max_edges)
    down, more_down = _walk(connection, _DOWN, kind, start_id, max_depth, max_edges)
    ids = sorted({start_id, *(end for edge in (*up, *down) for end in (edge.child_id, edge.parent_id))})
    nodes = {node.id: node for node in _nodes(connection, ids)}
    return Lineage(nodes[start_id], up, down, nodes, more_up or more_down)


def _walk(
    connection: duckdb.DuckDBPyConnection, sql: str, kind: str, start_id: str, max_depth: int, max_edges: int
) -> tuple[tuple[LineageEdge, ...], bool]:
    """The edges of a walk, and whether there are more."""
    rows = connection.execute(
        sql, {"kind": kind, "id": start_id, "max_depth": max_depth, "max_edges": max_edges}
    ).fetchall()
    kept = [row for row in rows if row[5] <= max_depth][:max_edges]
    return tuple(LineageEdge(row[1], row[3], row[4]) for row in kept), len(kept) < len(rows)


def _nodes(connection: duckdb.DuckDBPyConnection, ids: list[str]) -> list[LineageNode]:
    # As constants, which DuckDB looks for in each table before it makes a label of every row. (They come from the store.)
    wanted = ", ".join(f"CAST('{uuid.UUID(node_id)}' AS UUID)" for node_id in ids)
    rows = connection.execute(
        f"SELECT kind, CAST(id AS VARCHAR), label FROM lineage_node WHERE id IN ({wanted})"
    ).fetchall()
    return [LineageNode(kind, node_id, one_line(label)) for kind, node_id, label in rows]


@dataclasses.dataclass(frozen=True, slots=True)
class Branch:
    """One step of a lineage as a tree. A node that stands in the tree already has no branches a second time."""

    relation: str
    node: LineageNode
    repeated: bool
    branches: "tuple[Branch, ...]"


def to_trees(found: Lineage) -> tuple[tuple[str, tuple[Branch, ...]], ...]:
    """The two walks of a lineage as trees, each under its title, if there is anything."""
    shown = {found.start.id}
    trees = []
    for title, edges, upward in (("came from", found.ancestors, True), ("led to", found.descendants, False)):
        steps: dict[str, list[tuple[str, str]]] = {}
        for edge in edges:
            here, there = (edge.child_id, edge.parent_id) if upward else (edge.parent_id, edge.child_id)
            steps.setdefault(here, []).append((edge.relation, there))
        if steps:
            trees.append((title, _branches(found, steps, found.start.id, shown)))
    return tuple(trees)


def _branches(
    found: Lineage, steps: dict[str, list[tuple[str, str]]], here: str, shown: set[str]
) -> tuple[Branch, ...]:
    made = []
    for relation, node_id in steps.get(here, []):
        repeated = node_id in shown
        shown.add(node_id)
        further = () if repeated else _branches(found, steps, node_id, shown)
        made.append(Branch(relation, found.nodes[node_id], repeated, further))
    return tuple(made)


def render_tree(found: Lineage) -> str:
    """A lineage as text, one line a node. A node that was shown before is named only."""
    lines = [_line(found.start)]
    for title, branches in to_trees(found):
        lines.append(title)
        _render(branches, "", lines)
    if found.truncated:
        lines.append("(more was left out: raise the depth, or start nearer to what you look for)")
    return "\n".join(lines)


def _render(branches: tuple[Branch, ...], indent: str, lines: list[str]) -> None:
    for number, branch in enumerate(branches, start=1):
        last = number == len(branches)
        text = f"{branch.node.kind} {_short(branch.node.id)} (see above)" if branch.repeated else _line(branch.node)
        lines.append(f"{indent}{'└─' if last else '├─'} {branch.relation}: {text}")
        _render(branch.branches, indent + ("   " if last else "│  "), lines)


def _short(node_id: str) -> str:
    return f"{node_id[:8]}…"


def _line(node: LineageNode) -> str:
    return f"{node.kind} {_short(node.id)} {shortened(node.label, _LABEL_WIDTH)}"


def to_json(found: Lineage) -> str:
    """A lineage as canonical JSON, with the fields of `Lineage`."""
    plain: dict[str, Any] = dataclasses.asdict(found)
    return canonical_json(plain)


def to_mermaid(found: Lineage) -> str:
    """A lineage as a Mermaid flowchart, parents above children. Texts of models are escaped: they cannot break the chart."""
    names = {node_id: f"n{number}" for number, node_id in enumerate(found.nodes)}
    lines = ["flowchart TD"]
    for node_id, name in names.items():
        lines.append(f'    {name}["{_escaped(_line(found.nodes[node_id]))}"]')
    for edge in dict.fromkeys((*found.ancestors, *found.descendants)):
        lines.append(f"    {names[edge.parent_id]} -->|{edge.relation}| {names[edge.child_id]}")
    lines.append(f"    style {names[found.start.id]} stroke-width:3px")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Letters, digits and harmless signs as they are, anything else as Mermaid's decimal entities."""
    return "".join(c if c.isalnum() or c in " .,:=+-_" else f"#{ord(c)};" for c in text)
