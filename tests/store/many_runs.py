"""Several small runs on the same queries, as runs on one data set are: query ids are shared, all other ids are each run's own."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from small_run import CONFIG_DIGEST, Stage, stages

from tapo_core.ids import deterministic_id, iteration_of, sha256_text
from tapo_core.records import Config, Query, Run
from tapo_core.store import Record, StageCommit, StoreWriter


def run_id_of(name: str) -> str:
    return deterministic_id("run", name=name)


def of_run(name: str, records: Sequence[Record]) -> list[Record]:
    """The records as run `name` would have made them. Its configuration has its own name in it, under the same digest."""
    shared = {
        record.query_id for stage in stages() for record in [*stage.records, *records] if isinstance(record, Query)
    }
    return [_of_run(name, record, shared) for record in records]


def _of_run(name: str, record: Any, shared: set[str]) -> Any:
    if isinstance(record, Config):
        return Config(CONFIG_DIGEST, f'{{"run":{{"name":"{name}"}}}}')
    ids = {
        field.name: deterministic_id("of_run", iteration=iteration_of(value), run=name, id=value)
        for field in dataclasses.fields(record)
        if field.name.endswith("_id") and (value := getattr(record, field.name)) is not None and value not in shared
    }
    if "run_id" in ids:
        ids["run_id"] = run_id_of(name)
    return dataclasses.replace(record, **ids, **({"name": name} if isinstance(record, Run) else {}))


def commit_of_run(run_folder: Path, name: str, stage: Stage) -> StageCommit:
    return StoreWriter(run_folder, lock_seconds=5).commit_stage(
        run_id=run_id_of(name),
        iteration=stage.iteration,
        stage=stage.stage,
        config_digest=CONFIG_DIGEST,
        input_digest=sha256_text(stage.stage),
        manifest={"stage": stage.stage},
        records=of_run(name, stage.records),
    )


def build_run(run_folder: Path, name: str, n_stages: int = 7) -> Path:
    """Write the first stages of the small run as run `name`."""
    for stage in stages()[:n_stages]:
        commit_of_run(run_folder, name, stage)
    return run_folder
