"""The graph and the list of a lineage say the same as `tapo lineage`."""

import dataclasses
from pathlib import Path

import pytest
from small_run import CORRECTION_ID, QUERY_ID, ROLLOUTS, VERSIONS
from starlette.testclient import TestClient

from tapo_core.store import LineageEdge, LineageNode, lineage
from tapo_core.viewer import urls
from tapo_core.viewer.graph import HEIGHT, WIDTH, Box, lay_out
from tapo_core.viewer.lineage import PER_COLUMN
from tests.viewer.dom import Element, parse


def page(client: TestClient, subject_id: str) -> Element:
    answer = client.get(urls.lineage_url("small", subject_id))
    assert answer.status_code == 200, answer.text
    return parse(answer.text)


@pytest.mark.parametrize("subject_id", [CORRECTION_ID, ROLLOUTS[2], VERSIONS[1]])
def test_graph_and_list_have_every_node(client: TestClient, runs_folder: Path, subject_id: str) -> None:
    found = lineage(runs_folder / "small", subject_id)
    links = {urls.lineage_url("small", node) for node in found.nodes}
    shown = page(client, subject_id)
    (graph,) = shown.all("svg")
    assert {a.attributes["href"] for a in graph.all("a")} == links
    assert len(graph.all("path")) == len({*found.ancestors, *found.descendants})
    (tree,) = shown.all("div", class_="tree")
    listed = {a.attributes["href"] for a in tree.all("a")}
    assert links - {urls.lineage_url("small", subject_id)} <= listed
    assert [a.attributes["href"] for a in graph.all("a", class_="start")] == [urls.lineage_url("small", subject_id)]


def test_every_edge_leads_to_the_right_and_no_boxes_overlap(runs_folder: Path) -> None:
    graph = lay_out(lineage(runs_folder / "small", CORRECTION_ID), 12)
    boxes = {box.node.id: box for box in graph.boxes}
    found = lineage(runs_folder / "small", CORRECTION_ID)
    for edge in (*found.ancestors, *found.descendants):
        assert boxes[edge.parent_id].x + WIDTH < boxes[edge.child_id].x
    for one in graph.boxes:
        assert 0 <= one.x <= graph.width - WIDTH
        assert 0 <= one.y <= graph.height - HEIGHT
        assert not [other for other in graph.boxes if other is not one and _overlap(one, other)]


def _overlap(one: Box, other: Box) -> bool:
    return abs(one.x - other.x) < WIDTH and abs(one.y - other.y) < HEIGHT


def test_what_has_no_room_is_counted(runs_folder: Path) -> None:
    found = lineage(runs_folder / "small", QUERY_ID)
    more = {f"n{k}": LineageNode("rollout", f"n{k}", "one more") for k in range(30)}
    wide = dataclasses.replace(
        found,
        descendants=(*found.descendants, *(LineageEdge(node, QUERY_ID, "query") for node in more)),
        nodes=found.nodes | more,
    )
    graph = lay_out(wide, 5)
    assert len(graph.boxes) + graph.n_left_out == len(wide.nodes)
    assert graph.n_left_out >= 25
    drawn = {box.node.id for box in graph.boxes}
    assert QUERY_ID in drawn
    edges = [edge for edge in wide.descendants if {edge.child_id, edge.parent_id} <= drawn]
    assert {edge.child_id for edge in edges} == drawn - {QUERY_ID}  # nothing hangs in the air


def test_the_page_says_what_has_no_room(client: TestClient, runs_folder: Path) -> None:
    graph = lay_out(lineage(runs_folder / "small", QUERY_ID), PER_COLUMN)
    assert graph.n_left_out > 0
    notes = [note.text for note in page(client, QUERY_ID).all("p", class_="empty")]
    assert notes == [f"The graph has no room for {graph.n_left_out} more of what was found; the list below has them."]


def test_an_unknown_id_is_told_of(client: TestClient) -> None:
    assert client.get(urls.lineage_url("small", "ffffffff")).status_code == 404
    assert client.get(urls.lineage_url("small", "no id")).status_code == 404
    answer = client.get(urls.lineage_url("small", CORRECTION_ID[:8]), follow_redirects=False)
    assert answer.headers["location"] == urls.lineage_url("small", CORRECTION_ID)
