"""The story of one thing: all that it came from, all that came of it, and nothing else."""

import html
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from small_run import (
    CORRECTION_ID,
    ERROR_LOCATION_ID,
    EVALUATION_ROLLOUT,
    QUERY_ID,
    ROLLOUTS,
    VERSIONS,
    Stage,
    build_small_run,
    commit,
    make_example,
    make_query,
    stages,
)

from tapo_core.errors import UserError
from tapo_core.records import ColdStartKind
from tapo_core.store import Lineage, LineageEdge, LineageNode, lineage, render_tree, to_json, to_mermaid

TWINS = ["aaaaaaaa-0000-8000-8000-000000000001", "aaaaaaaa-0000-8000-8000-000000000002"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_small_run(tmp_path_factory.mktemp("run"))
    commit(folder, Stage(2, "queries", [make_query(twin) for twin in TWINS]))
    return folder


def _steps(edges: Iterable[LineageEdge]) -> set[tuple[str, str, str]]:
    return {(edge.child_id, edge.relation, edge.parent_id) for edge in edges}


def test_wrong_rollout(run_folder: Path) -> None:
    found = lineage(run_folder, ROLLOUTS[2])
    assert found.start.kind == "rollout"
    assert found.start.label == 'k=2 iteration 1 wrong "7 + 12 = 18. The answer is 18."'
    assert _steps(found.ancestors) == {
        (ROLLOUTS[2], "query", QUERY_ID),
        (ROLLOUTS[2], "sampling_policy", VERSIONS[0]),
    }
    named = _steps(found.descendants)
    assert {
        (ERROR_LOCATION_ID, "located_in", ROLLOUTS[2]),
        (CORRECTION_ID, "wrong_rollout", ROLLOUTS[2]),
        (CORRECTION_ID, "error_location", ERROR_LOCATION_ID),
        (VERSIONS[1], "trained_on", ROLLOUTS[2]),
        (VERSIONS[1], "trained_on", CORRECTION_ID),
    } <= named
    # Two verdicts and two decisions besides; neither siblings nor what the new version went on to sample.
    assert len(named) == 9
    assert not {ROLLOUTS[0], ROLLOUTS[1], EVALUATION_ROLLOUT} & set(found.nodes)
    assert not found.truncated


def test_constructed_trajectory(run_folder: Path) -> None:
    found = lineage(run_folder, CORRECTION_ID)
    assert {edge.parent_id for edge in found.ancestors} == {
        *(ERROR_LOCATION_ID, ROLLOUTS[0], ROLLOUTS[2]),
        *(VERSIONS[0], QUERY_ID),
    }
    assert {found.nodes[edge.child_id].kind for edge in found.descendants} == {
        *("verification", "selection_decision", "policy_version"),
    }


def test_error_location(run_folder: Path) -> None:
    assert _steps(lineage(run_folder, ERROR_LOCATION_ID).ancestors) >= {
        (ERROR_LOCATION_ID, "located_in", ROLLOUTS[2]),
        (ERROR_LOCATION_ID, "reference_rollout", ROLLOUTS[0]),
        (ERROR_LOCATION_ID, "asked_policy", VERSIONS[0]),
    }


def test_policy_version(run_folder: Path) -> None:
    found = lineage(run_folder, VERSIONS[1])
    trained_on = {edge.parent_id for edge in found.ancestors if edge.relation == "trained_on"}
    assert trained_on == {*ROLLOUTS[:3], CORRECTION_ID}
    assert (VERSIONS[1], "parent", VERSIONS[0]) in _steps(found.ancestors)
    assert EVALUATION_ROLLOUT in {edge.child_id for edge in found.descendants}


def test_first_version_stops_at_its_child(run_folder: Path) -> None:
    found = lineage(run_folder, VERSIONS[0])
    assert (VERSIONS[1], "parent", VERSIONS[0]) in _steps(found.descendants)
    assert EVALUATION_ROLLOUT not in found.nodes


def test_cold_start_examples(tmp_path: Path) -> None:
    folder = build_small_run(tmp_path, len(stages()))
    sft, ift = (
        record.example_id
        for record in (make_example(ColdStartKind.SFT, ROLLOUTS[0]), make_example(ColdStartKind.IFT, CORRECTION_ID))
    )
    assert {(VERSIONS[1], "trained_on", sft), (VERSIONS[1], "trained_on", ift)} <= _steps(
        lineage(folder, VERSIONS[1]).ancestors
    )
    found = lineage(folder, ift)
    assert found.start.label == "ift example of 2 tokens"
    assert (ift, "made_of", CORRECTION_ID) in _steps(found.ancestors)
    assert (sft, "made_of", ROLLOUTS[0]) in _steps(lineage(folder, ROLLOUTS[0]).descendants)


@pytest.mark.parametrize(
    "prefix", [ROLLOUTS[2][:6], ROLLOUTS[2][:13], ROLLOUTS[2].upper(), ROLLOUTS[2].replace("-", "")]
)
def test_prefixes(run_folder: Path, prefix: str) -> None:
    assert lineage(run_folder, prefix).start.id == ROLLOUTS[2]


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("00000000", "nothing in this run has an id that begins with 00000000"),
        ("aaaaaa", f"several ids: query {TWINS[0]}, query {TWINS[1]}"),
        ("abc", "is no id: give a UUID, or 6 or more"),
        ("rollout", "is no id"),
        ("%%%%%%", "is no id"),
    ],
)
def test_ids_that_name_nothing_or_too_much(run_folder: Path, prefix: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        lineage(run_folder, prefix)


def test_limits_are_said(run_folder: Path) -> None:
    near = lineage(run_folder, CORRECTION_ID, max_depth=1)
    assert near.truncated
    assert {edge.child_id for edge in near.ancestors} == {CORRECTION_ID}
    few = lineage(run_folder, VERSIONS[0], max_edges=2)
    assert few.truncated
    assert len(few.descendants) == 2
    assert "more was left out" in render_tree(few)


def test_tree(run_folder: Path) -> None:
    lines = render_tree(lineage(run_folder, ROLLOUTS[2])).splitlines()
    assert lines[:4] == [
        f'rollout {ROLLOUTS[2][:8]}… k=2 iteration 1 wrong "7 + 12 = 18. The answer is 18."',
        "came from",
        f'├─ query: query {QUERY_ID[:8]}… train gold 19 "Start with 7. Add 12."',
        f"└─ sampling_policy: policy_version {VERSIONS[0][:8]}… iteration 0 /models/start",
    ]
    assert lines[4] == "led to"
    assert (
        f'├─ wrong_rollout: correction {CORRECTION_ID[:8]}… iteration 1 parsed correct "Wait, 7 + 12 is 19."' in lines
    )
    assert f"│  ├─ trained_on: policy_version {VERSIONS[1][:8]}… iteration 1 checkpoints/1" in lines


def test_json(run_folder: Path) -> None:
    plain = json.loads(to_json(lineage(run_folder, ROLLOUTS[2])))
    assert plain["start"]["id"] == ROLLOUTS[2]
    assert {"child_id": ROLLOUTS[2], "parent_id": QUERY_ID, "relation": "query"} in plain["ancestors"]
    assert plain["nodes"][QUERY_ID]["kind"] == "query"


def test_mermaid(run_folder: Path) -> None:
    found = lineage(run_folder, CORRECTION_ID)
    chart = to_mermaid(found).splitlines()
    assert chart[0] == "flowchart TD"
    nodes = [re.fullmatch(r'    (n\d+)\["([^"\[\]{}<>|]*)"\]', line) for line in chart]
    named = {match[1] for match in nodes if match}
    assert len(named) == len(found.nodes)
    arrows = [match for line in chart if (match := re.fullmatch(r"    (n\d+) -->\|(\w+)\| (n\d+)", line))]
    assert len(arrows) == len({*found.ancestors, *found.descendants})
    assert {end for arrow in arrows for end in (arrow[1], arrow[3])} <= named
    assert len(chart) == 1 + len(named) + len(arrows) + 1, "every line is a node, an arrow, or the mark on the start"


def test_a_text_cannot_break_the_chart(tmp_path: Path) -> None:
    text = '"]; click n0 "javascript:x" %% <b>&#0;|end'
    hostile = LineageNode("rollout", QUERY_ID, text)
    (_, node, _) = to_mermaid(Lineage(hostile, (), (), {QUERY_ID: hostile}, False)).splitlines()
    label = node.removeprefix('    n0["').removesuffix('"]')
    assert not set('"<>|&%[]()') & set(label)
    assert html.unescape(re.sub(r"#(\d+);", r"&#\1;", label)).endswith(text)
