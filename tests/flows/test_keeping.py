"""A run that trains further from its backup, as if nothing had happened; and one that trains further without a redacted query."""

import shutil
from pathlib import Path

import pytest

from flows.train import train
from tapo_core.ids import file_sha256
from tapo_core.progress import reporting
from tapo_core.records import (
    Advantage,
    Correction,
    ErrorLocation,
    Query,
    Rollout,
    RolloutTokens,
    SelectionDecision,
    UpdateMetric,
)
from tapo_core.replay import Resampled, replay, resample
from tapo_core.schedule import queries_of_iteration
from tapo_core.store import load, verified_commits
from tapo_core.store.audit import verify
from tapo_core.store.backup import backup_run, restore_run
from tapo_core.store.redact import redact_query
from tests.flows.conftest import Configure, StopAt

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_restored_run_trains_further_bit_for_bit(configure: Configure, tmp_path: Path) -> None:
    config = configure("kept")
    train(config)
    made = backup_run(config.run_folder, tmp_path / "backup")
    assert made.manifest["can_train"] is True
    further = configure("kept", "run.iterations=2")
    train(further)
    found = []
    for again in (False, True):
        if again:
            shutil.rmtree(config.run_folder)
            restore_run(tmp_path / "backup", config.run_folder)
            assert verified_commits(config.run_folder)[-1].iteration == 1
            train(further)
        weights = file_sha256(config.run_folder / "policies" / "000002" / "hf" / "model.safetensors")
        # The change of run.iterations is recorded with its time.
        commits = [c for c in verified_commits(config.run_folder) if not c.stage.startswith("operation-")]
        chain = [(c.iteration, c.stage, c.content_digest) for c in commits]
        found.append((weights, chain, load(config.run_folder, RolloutTokens), load(config.run_folder, UpdateMetric)))
    assert found[0] == found[1]
    assert verify(config.run_folder).faults == []


def test_a_run_goes_on_without_redacted_queries(configure: Configure) -> None:
    settings = ["evaluation.queries=6"]
    config = configure("redacted", *settings)
    train(config)
    folder = config.run_folder
    queries = {q.query_id: q for q in load(folder, Query)}
    train_ids = [query_id for query_id, query in queries.items() if query.split == "train"]
    drawn = queries_of_iteration(train_ids, 12, 2, config.run.seed)
    # One that a policy was trained on, one that would be sampled next, one that is evaluated; a fourth follows.
    trained = next(r.query_id for r in load(folder, Advantage, subject_kind="constructed"))
    held_out = min(r.query_id for r in load(folder, Rollout, kind="evaluation"))
    redact_query(folder, trained, "licence", outputs=True)
    redact_query(folder, drawn[0], "licence")
    redact_query(folder, held_out, "licence")

    further = configure("redacted", *settings, "run.iterations=2")
    with reporting(StopAt(2, "diagnose_and_correct")), pytest.raises(KeyboardInterrupt):
        train(further)
    asked = {r.rollout_id: r.query_id for r in load(folder, Rollout)}
    at_work = next(asked[r.rollout_id] for r in load(folder, ErrorLocation, iteration=2))
    redact_query(folder, at_work, "licence", outputs=True)
    train(further)

    sampled = {r.query_id for r in load(folder, Rollout, iteration=2, kind="training")}
    assert sampled == {query_id for query_id in drawn if query_id not in (drawn[0], trained)}
    evaluated = {n: {r.query_id for r in load(folder, Rollout, iteration=n, kind="evaluation")} for n in (0, 1, 2)}
    assert evaluated[0] == evaluated[1] == evaluated[2] | {held_out}
    corrected = {c.query_id for c in load(folder, Correction, iteration=2)}
    members = {a.query_id for a in load(folder, Advantage, iteration=2)}
    assert at_work in sampled
    assert at_work not in corrected | members
    assert members
    decisions = [d for d in load(folder, SelectionDecision, iteration=2) if d.reason == "redacted"]
    assert {d.subject_id for d in decisions} == {at_work, *(r for r, q in asked.items() if q == at_work)}
    assert not any(d.selected for d in decisions)

    replayed = replay(folder)
    assert replayed.differences == []
    assert replayed.n_redacted > 16, "the rollouts of two queries at least"
    assert replayed.rows["advantage"] > 0
    assert resample(folder, 4) == Resampled(4, [])
    assert verify(folder).faults == []
