"""The small run about a problem that has words of its own, which can be looked for in every byte."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from small_run import (
    QUERY_ID,
    RUN_ID,
    Stage,
    changed,
    commit,
    make_query,
    make_rollout,
    stages,
)

from tapo_core.ids import deterministic_id
from tapo_core.records import (
    ErrorLocation,
    OverlapKind,
    Query,
    QueryOverlap,
    RolloutTokens,
)

TEXT = "Zebediah starts with 7 marbles and then his aunt gives him 12 more of them."
OTHER_ID = deterministic_id("query", n=1)
OTHER_TEXT = "Start with 5. Add 3."
PROMPT = [70_001, 70_002, 70_003]
VOTES = [
    {"seed": 1, "output": "<step>1</step> says the voter", "outcome": "counted", "step": 0},
    {"seed": 2, "output": None, "outcome": "not_asked", "step": None},
    {"kept_steps": 1, "n_correct": 0, "n": 1, "seeds": [3], "outputs": ["continued by the voter", None]},
]


def _overlap(query_id: str | None, other_query_id: str, text: str) -> QueryOverlap:
    overlap_id = deterministic_id("overlap", query=query_id, other=other_query_id)
    dropped = query_id is None
    kind = OverlapKind.EXACT
    return QueryOverlap(overlap_id, RUN_ID, query_id, "a:1", text, other_query_id, "held_out", kind, 100.0, dropped)


def _worded(stage: Stage) -> Stage:
    """A stage of the small run about a problem that has words of its own."""
    records: list[Any] = []
    for record in stage.records:
        if isinstance(record, Query):
            records += [make_query(text=TEXT), make_query(OTHER_ID, OTHER_TEXT)]
            records += [_overlap(QUERY_ID, OTHER_ID, TEXT), _overlap(None, QUERY_ID, TEXT)]
        elif isinstance(record, RolloutTokens):
            records.append(changed(record, prompt_token_ids=PROMPT))
        elif isinstance(record, ErrorLocation):
            records.append(changed(record, votes=json.dumps(VOTES)))
        else:
            records.append(record)
    return Stage(stage.iteration, stage.stage, records)


def build_worded_run(folder: Path) -> None:
    """All stages of the small run, and a rollout of another query, which must stay as it is."""
    for stage in stages():
        commit(folder, _worded(stage))
    other = changed(
        make_rollout(0, "5 + 3 = 8", rollout_id=deterministic_id("rollout", iteration=1, n="other")), query_id=OTHER_ID
    )
    commit(folder, Stage(1, "other", [other]))


def where(folder: Path, *needles: str) -> set[str]:
    """Where in a folder's files a text is: in their bytes, or in what Parquet files hold compressed."""
    found = set()
    for file in folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            held = ""
            if file.suffix == ".parquet":
                with pyarrow.parquet.ParquetFile(file) as parquet:
                    held = f"{parquet.read().to_pydict()!r} {parquet.schema_arrow.metadata!r}"
                    for group in range(parquet.num_row_groups):
                        held += repr(parquet.metadata.row_group(group).to_dict())
            for needle in needles:
                if needle.encode() in content or needle in held:
                    found.add(file.name)
    return found
