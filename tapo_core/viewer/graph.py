"""A lineage laid out as a graph: what a thing came from to its left, what came of it to its right, a column a step."""

from collections.abc import Sequence
from dataclasses import dataclass

from tapo_core.store import Lineage, LineageEdge, LineageNode

WIDTH, HEIGHT = 210, 46  #: of a node's box, pixels
_GAP_X, _GAP_Y, _MARGIN, _NAME_HEIGHT = 92, 14, 16, 11


@dataclass(frozen=True, slots=True)
class Box:
    """A node at its place; `x` and `y` are its upper left corner."""

    node: LineageNode
    x: int
    y: int
    is_start: bool


@dataclass(frozen=True, slots=True)
class Name:
    """What the edges are that part, or end, at one place."""

    text: str
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Graph:
    """What is drawn."""

    boxes: tuple[Box, ...]
    paths: tuple[str, ...]  #: of the edges, each from the parent's right side to the child's left
    names: tuple[Name, ...]
    width: int
    height: int
    n_left_out: int  #: nodes for which there is no room


def lay_out(found: Lineage, per_column: int) -> Graph:
    """A graph of the start and what is joined to it by what is drawn, so many nodes in a column at the most."""
    columns = {found.start.id: 0}
    columns |= {node: -n for node, n in _steps_away(found.start.id, found.ancestors, upward=True).items()}
    columns |= _steps_away(found.start.id, found.descendants, upward=False)
    edges = list(dict.fromkeys((*found.ancestors, *found.descendants)))
    drawn = {found.start.id: 0}
    for column in sorted({*columns.values()} - {0}, key=abs):
        nearer = {node for node in drawn if abs(drawn[node]) < abs(column)}
        ends = {e.parent_id for e in edges if e.child_id in nearer} | {
            e.child_id for e in edges if e.parent_id in nearer
        }
        joined = [node for node in ends if columns.get(node) == column]
        joined.sort(key=lambda node: (found.nodes[node].kind, node))
        drawn |= dict.fromkeys(joined[:per_column], column)
    first, last = min(drawn.values()), max(drawn.values())
    edges = [edge for edge in edges if {edge.child_id, edge.parent_id} <= set(drawn)]
    rows: dict[str, float] = {}
    for column in (0, *range(-1, first - 1, -1), *range(1, last + 1)):
        _order([node for node in drawn if drawn[node] == column], edges, found, rows)
    tallest = max(list(drawn.values()).count(column) for column in range(first, last + 1))
    height = 2 * _MARGIN + tallest * (HEIGHT + _GAP_Y) - _GAP_Y
    boxes = {}
    for node, column in drawn.items():
        x = _MARGIN + (column - first) * (WIDTH + _GAP_X)
        boxes[node] = Box(found.nodes[node], x, round(height / 2 + rows[node] - HEIGHT / 2), node == found.start.id)
    paths = tuple(_path(boxes[edge.parent_id], boxes[edge.child_id]) for edge in edges)
    names = _names(edges, boxes, {node for node in drawn if drawn[node] <= 0})
    width = 2 * _MARGIN + (last - first + 1) * (WIDTH + _GAP_X) - _GAP_X
    return Graph(tuple(boxes.values()), paths, names, width, height, len(columns) - len(drawn))


def _steps_away(start: str, edges: Sequence[LineageEdge], *, upward: bool) -> dict[str, int]:
    """How many steps each node is from the start, by the longest way, so that every edge leads from left to right."""
    steps: dict[str, list[str]] = {}
    for edge in edges:
        here, there = (edge.child_id, edge.parent_id) if upward else (edge.parent_id, edge.child_id)
        steps.setdefault(here, []).append(there)
    away = {start: 0}
    waiting = [start]
    while waiting:
        here = waiting.pop()
        for there in steps.get(here, ()):
            if away.get(there, 0) <= away[here]:
                away[there] = away[here] + 1
                waiting.append(there)
    return {node: n for node, n in away.items() if n}


def _order(column: list[str], edges: Sequence[LineageEdge], found: Lineage, rows: dict[str, float]) -> None:
    """Place a column's nodes below each other, each near those in other columns that it is joined to."""

    def wish(node: str) -> float:
        joined = [e.parent_id if e.child_id == node else e.child_id for e in edges if node in (e.child_id, e.parent_id)]
        placed = [rows[other] for other in joined if other in rows]
        return sum(placed) / len(placed) if placed else 0.0

    ordered = sorted(column, key=lambda node: (wish(node), found.nodes[node].kind, node))
    for number, node in enumerate(ordered):
        rows[node] = (number - (len(ordered) - 1) / 2) * (HEIGHT + _GAP_Y)


def _path(parent: Box, child: Box) -> str:
    x1, y1, x2, y2 = parent.x + WIDTH, parent.y + HEIGHT // 2, child.x, child.y + HEIGHT // 2
    bend = max(_GAP_X // 2, (x2 - x1) // 2)
    return f"M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"


def _names(edges: Sequence[LineageEdge], boxes: dict[str, Box], came_before: set[str]) -> tuple[Name, ...]:
    """Names stand where edges have parted: at the parent of what came before, at the child of what came after."""
    there: dict[tuple[int, int], dict[str, None]] = {}
    for edge in edges:
        parent, child = boxes[edge.parent_id], boxes[edge.child_id]
        at, x = (parent, parent.x + WIDTH + 4) if edge.child_id in came_before else (child, child.x - _GAP_X + 12)
        there.setdefault((x, at.y + HEIGHT // 2 - 5), {})[edge.relation] = None
    return tuple(
        Name(text, x, y - _NAME_HEIGHT * number) for (x, y), texts in there.items() for number, text in enumerate(texts)
    )
