"""A stage is written once and whole, under one content for each key, with all its parents, or not at all."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from small_run import (
    CONFIG_DIGEST,
    CORRECTION_ID,
    QUERY_ID,
    ROLLOUTS,
    RUN_ID,
    VERSIONS,
    Stage,
    build_small_run,
    changed,
    cold_start_records,
    commit,
    correct_records,
    make_example,
    make_query,
    make_rollout,
    make_tokens,
    open_file,
    sample_records,
    stages,
    update_records,
    verify_records,
)

from tapo_core.errors import IntegrityError, StoreLockedError, TransientError, UserError
from tapo_core.ids import deterministic_id
from tapo_core.records import (
    ColdStartKind,
    OverlapKind,
    Query,
    QueryOverlap,
    Rollout,
    RolloutTokens,
    TokenWeight,
    VerificationOutcome,
)
from tapo_core.store import StageCommit, StoreReader, StoreWriter, content_digest, load, open_reader, verified_commits
from tapo_core.store.connection import connect, database_path, ledger_path
from tapo_core.store.tables import TABLES

NOWHERE = deterministic_id("nothing", iteration=1)


def _row_counts(run_folder: Path) -> dict[str, int]:
    names = [*(table.name for table in TABLES.values()), "stage_commit"]
    with contextlib.closing(open_reader(run_folder)) as connection:
        counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone() for name in names}
    return {name: count[0] for name, count in counts.items() if count}


def _ledger(run_folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ledger_path(run_folder).read_text().splitlines()]


def kept_open(run_folder: Path) -> StoreWriter:
    return StoreWriter(run_folder, keeps_open=True)


def _edit(run_folder: Path, sql: str) -> None:
    with contextlib.closing(duckdb.connect(database_path(run_folder))) as connection:
        connection.execute(sql)


def stage_of(folder: Path, iteration: int, stage: str) -> StageCommit | None:
    reader = StoreReader(folder)
    try:
        return reader.stage(RUN_ID, iteration, stage)
    finally:
        reader.release()


def test_commit_says_what_it_wrote(tmp_path: Path) -> None:
    build_small_run(tmp_path, 1)
    made = commit(tmp_path, stages()[1])
    assert (made.seq, made.iteration, made.stage, made.manifest) == (2, 1, "sample", {"stage": "sample"})
    assert made.row_counts == {"rollout": 4, "rollout_tokens": 4}
    assert made.content_digest == content_digest(sample_records())
    writer = StoreWriter(tmp_path)
    first, second = writer.commits(RUN_ID)
    assert second == made == stage_of(tmp_path, 1, "sample")
    assert (first.seq, first.previous_digest, second.previous_digest) == (1, None, first.chain_digest)
    assert stage_of(tmp_path, 2, "sample") is None
    assert [(line["seq"], line["chain_digest"]) for line in _ledger(tmp_path)] == [
        (1, first.chain_digest),
        (2, second.chain_digest),
    ]


def test_all_records_come_back(tmp_path: Path) -> None:
    build_small_run(tmp_path, len(stages()))
    everything = [record for stage in stages() for record in stage.records]
    for record_class in TABLES:
        expected = [record for record in everything if type(record) is record_class]
        assert sorted(map(repr, load(tmp_path, record_class))) == sorted(map(repr, expected))


def test_second_commit_of_a_stage_writes_nothing(tmp_path: Path) -> None:
    build_small_run(tmp_path, 2)
    before = _row_counts(tmp_path)
    again = commit(tmp_path, stages()[1])
    assert again == stage_of(tmp_path, 1, "sample")
    assert _row_counts(tmp_path) == before
    assert len(_ledger(tmp_path)) == 2


@pytest.mark.parametrize("other", ["config_digest", "input_digest"])
def test_stage_with_other_inputs_is_refused(tmp_path: Path, other: str) -> None:
    made = commit(tmp_path, stages()[0])
    digests = {"config_digest": made.config_digest, "input_digest": made.input_digest, other: "new"}
    with pytest.raises(IntegrityError, match=rf"{other} {getattr(made, other)} .* with new"):
        StoreWriter(tmp_path).commit_stage(
            run_id=RUN_ID, iteration=0, stage="start", manifest={}, records=[], **digests
        )


def test_rows_that_are_there_already_are_left_alone(tmp_path: Path) -> None:
    build_small_run(tmp_path, 2)
    extra = changed(make_rollout(0, "new"), rollout_id=NOWHERE)
    made = commit(tmp_path, Stage(1, "again", [*sample_records(), extra, extra]))
    assert made.row_counts == {"rollout": 5, "rollout_tokens": 4}
    assert (_row_counts(tmp_path)["rollout"], _row_counts(tmp_path)["rollout_tokens"]) == (5, 4)


def test_other_content_under_a_key_is_refused(tmp_path: Path) -> None:
    build_small_run(tmp_path, 2)
    before = _row_counts(tmp_path)
    other = changed(make_rollout(1, "The answer is 20."), seed=5)
    with pytest.raises(
        IntegrityError, match=rf"rollout \(rollout_id={ROLLOUTS[1]}\) .* different content in: seed, text"
    ):
        commit(tmp_path, Stage(1, "again", [make_query(NOWHERE), other]))
    assert _row_counts(tmp_path) == before
    tokens = changed(make_tokens(ROLLOUTS[0]), logprobs_T=[-0.5, -0.125])
    with pytest.raises(IntegrityError, match=r"rollout_tokens .* different content in: logprobs_T"):
        commit(tmp_path, Stage(1, "again", [tokens]))


def test_contradiction_within_a_stage_is_refused(tmp_path: Path) -> None:
    build_small_run(tmp_path, 1)
    with pytest.raises(IntegrityError, match="twice in this stage with different content in: text, content_sha256"):
        commit(tmp_path, Stage(1, "sample", [make_rollout(0, "one"), make_rollout(0, "two")]))
    assert _row_counts(tmp_path)["rollout"] == 0


_BY_STAGE = {
    "sample": sample_records(),
    "verify": verify_records(),
    "correct": correct_records(),
    "update": update_records(),
    "cold_start": cold_start_records(),
}


@pytest.mark.parametrize(
    ("stage", "table", "column"),
    [
        ("sample", "rollout", "query_id"),
        ("sample", "rollout", "policy_version_id"),
        ("sample", "rollout_tokens", "subject_id"),
        ("verify", "verification", "subject_id"),
        ("correct", "error_location", "rollout_id"),
        ("correct", "correction", "query_id"),
        ("correct", "correction", "wrong_rollout_id"),
        ("correct", "correction", "reference_rollout_id"),
        ("correct", "correction", "error_location_id"),
        ("correct", "correction", "policy_version_id"),
        ("correct", "selection_decision", "subject_id"),
        ("update", "policy_version", "parent_policy_version_id"),
        ("update", "advantage", "subject_id"),
        ("update", "advantage", "query_id"),
        ("update", "token_weight", "subject_id"),
        ("update", "update_metric", "policy_version_id"),
        ("cold_start", "cold_start_example", "subject_id"),
        ("cold_start", "cold_start_example", "query_id"),
    ],
)
def test_orphans_are_refused(small_start: Path, stage: str, table: str, column: str) -> None:
    names = [made.stage for made in stages()]
    earlier = [record for made in stages()[1 : names.index(stage)] for record in made.records]
    mine = list(_BY_STAGE[stage])
    place = next(i for i, record in enumerate(mine) if TABLES[type(record)].name == table)
    mine[place] = changed(mine[place], **{column: NOWHERE})
    with pytest.raises(
        IntegrityError, match=rf"^{table} \(.*\): {column} {NOWHERE} is not in \w+\. Nothing was written"
    ):
        commit(small_start, Stage(1, stage, [*earlier, *mine]))


@pytest.mark.parametrize("column", ["query_id", "other_query_id"])
def test_overlaps_of_unknown_queries_are_refused(small_start: Path, column: str) -> None:
    overlap = QueryOverlap(
        NOWHERE, RUN_ID, None, "t:1", "Start.", QUERY_ID, "held_out", OverlapKind.NEAR, 95.0, dropped=False
    )
    with pytest.raises(IntegrityError, match=rf"^query_overlap \(.*\): {column} {NOWHERE} is not in query\."):
        commit(small_start, Stage(1, "sample", [changed(overlap, **{column: NOWHERE})]))


def test_a_cold_start_example_is_made_of_what_its_kind_says(tmp_path: Path) -> None:
    build_small_run(tmp_path)
    for kind, subject_id in ((ColdStartKind.IFT, ROLLOUTS[0]), (ColdStartKind.SFT, CORRECTION_ID)):
        with pytest.raises(IntegrityError, match=f"subject_id {subject_id} is not in "):
            commit(tmp_path, Stage(1, "cold_start", [make_example(kind, subject_id)]))


@pytest.fixture(scope="module")
def small_start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that has started, for tests whose commits are refused; after them it is as before."""
    folder = build_small_run(tmp_path_factory.mktemp("start"), 1)
    before = _row_counts(folder)
    yield folder
    assert _row_counts(folder) == before


def test_rows_of_another_run_are_refused(small_start: Path) -> None:
    with pytest.raises(IntegrityError, match=f"query: a stage of run {RUN_ID} hands in rows of run {NOWHERE}"):
        commit(small_start, Stage(1, "queries", [changed(make_query(NOWHERE), run_id=NOWHERE)]))


def test_an_id_of_another_iteration_is_refused(small_start: Path) -> None:
    rollout = make_rollout(0, "19", rollout_id=deterministic_id("rollout", iteration=2, k=0))
    for record in (rollout, make_tokens(rollout.rollout_id)):
        with pytest.raises(IntegrityError, match=rf"_id {rollout.rollout_id} names iteration 2 .* says iteration 1"):
            commit(small_start, Stage(1, "sample", [record]))


def test_run_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=f"run {RUN_ID} is not in run: its first stage must hand in the Run"):
        commit(tmp_path, Stage(0, "start", [make_query()]))


def test_unknown_verdict_never_carries_a_reward(small_start: Path) -> None:
    verdicts = [changed(record, outcome=VerificationOutcome.UNKNOWN) for record in verify_records()]
    with pytest.raises(IntegrityError, match=r"CHECK constraint failed on table .?verification"):
        commit(small_start, Stage(1, "verify", [*sample_records(), *verdicts]))


def test_lost_database_is_noticed(tmp_path: Path) -> None:
    build_small_run(tmp_path, 2)
    database_path(tmp_path).unlink()
    for use in (lambda: commit(tmp_path, stages()[2]), lambda: kept_open(tmp_path).connection()):
        with pytest.raises(
            IntegrityError,
            match=r"lost a committed stage: .* has stage sample of iteration 1 .* `tapo audit repair --run",
        ):
            use()
    assert not database_path(tmp_path).exists()


def test_lost_stage_is_noticed(tmp_path: Path) -> None:
    build_small_run(tmp_path, 2)
    _edit(tmp_path, "DELETE FROM stage_commit WHERE seq = 2")
    for use in (lambda: commit(tmp_path, stages()[1]), lambda: kept_open(tmp_path).connection()):
        with pytest.raises(IntegrityError, match="lost a committed stage"):
            use()


def test_ledger_gets_what_a_crash_kept_out_of_it(tmp_path: Path) -> None:
    build_small_run(tmp_path, 3)
    whole = ledger_path(tmp_path).read_text()
    lines = whole.splitlines(keepends=True)
    for left in ("".join(lines[:2]), "".join(lines[:2]) + lines[2][:20], ""):
        ledger_path(tmp_path).write_text(left)
        StoreWriter(tmp_path).migrate()
        assert stage_of(tmp_path, 1, "verify") is not None
        assert ledger_path(tmp_path).read_text() == whole


def test_damaged_ledger_is_noticed(tmp_path: Path) -> None:
    build_small_run(tmp_path, 2)
    lines = ledger_path(tmp_path).read_text().splitlines(keepends=True)
    for content, message in ((lines[1], "line 1 is about commit 2"), ("{}\n", "line 1 is no ledger entry")):
        ledger_path(tmp_path).write_text(content)
        with pytest.raises(IntegrityError, match=message):
            StoreWriter(tmp_path).commits(RUN_ID)


def test_changed_commit_breaks_the_chain(tmp_path: Path) -> None:
    build_small_run(tmp_path, 3)
    assert [made.stage for made in verified_commits(tmp_path)] == ["start", "sample", "verify"]
    ledger = ledger_path(tmp_path)
    ledger.write_text(ledger.read_text().replace('{"stage":"sample"}', '{"stage":"other"}'))
    with pytest.raises(IntegrityError, match="chain of stage commits breaks at number 2 "):
        verified_commits(tmp_path)


def test_full_disk_is_transient(tmp_path: Path) -> None:
    build_small_run(tmp_path, 1)
    writer = StoreWriter(tmp_path, min_free_bytes=2**62)
    with pytest.raises(TransientError, match=rf"{tmp_path}/store has \d+ MiB free"):
        writer.commit_stage(
            run_id=RUN_ID,
            iteration=1,
            stage="sample",
            config_digest=CONFIG_DIGEST,
            input_digest="i",
            manifest={},
            records=sample_records(),
        )
    assert _row_counts(tmp_path)["rollout"] == 0


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"{tmp_path}/file/store cannot be made"):
        StoreWriter(tmp_path / "file").migrate()


def test_file_that_is_no_database(tmp_path: Path) -> None:
    database_path(tmp_path).parent.mkdir()
    database_path(tmp_path).write_bytes(b"garbage" * 1000)
    with pytest.raises(IntegrityError, match=r"trajectories\.duckdb cannot be opened: .*not a valid DuckDB"):
        StoreWriter(tmp_path).migrate()


def test_reader_in_this_process_counts_as_a_lock(tmp_path: Path) -> None:
    build_small_run(tmp_path, 1)
    with contextlib.closing(open_file(tmp_path)), pytest.raises(StoreLockedError, match=rf"PID {os.getpid()}"):
        StoreWriter(tmp_path, lock_seconds=0.2).migrate()
    StoreWriter(tmp_path, lock_seconds=0.2).migrate()


def test_a_database_that_is_kept_open_is_opened_once_until_it_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def counted(path: Path, **options: Any) -> duckdb.DuckDBPyConnection:
        opened.append(path)
        return connect(path, **options)

    monkeypatch.setattr("tapo_core.store.writer.connect", counted)
    writer = StoreWriter(tmp_path, keeps_open=True, lock_seconds=0.2)
    reader = StoreReader(tmp_path, writer=writer)
    with pytest.raises(UserError, match="no run in"):
        reader.load(Query)
    for stage in stages():
        made = commit(tmp_path, stage, writer)
        assert reader.stage(RUN_ID, stage.iteration, stage.stage) == made
        if stage.stage == "sample":
            again = Stage(1, "again", sample_records())
            assert commit(tmp_path, again, writer).row_counts == {"rollout": 4, "rollout_tokens": 4}
    assert len(reader.load(Rollout)) == len(load(tmp_path, Rollout)), "a snapshot does not mind"
    assert len(opened) == 1
    with pytest.raises(StoreLockedError, match=rf"PID {os.getpid()}"):
        open_file(tmp_path)
    writer.release()
    writer.release()
    open_file(tmp_path).close()
    assert len(reader.commits()) == len(stages()) + 1
    assert len(opened) == 2
    writer.release()


def test_a_stage_that_fails_closes_the_database_that_was_kept_open(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, keeps_open=True)
    reader = StoreReader(tmp_path, writer=writer)
    commit(tmp_path, stages()[0], writer)
    orphan = changed(make_rollout(0, "new"), query_id=NOWHERE)
    with pytest.raises(IntegrityError):
        commit(tmp_path, Stage(1, "sample", [orphan]), writer)
    open_file(tmp_path).close()
    assert reader.load(Rollout) == []
    commit(tmp_path, stages()[1], writer)
    assert len(reader.load(Rollout)) == 4
    writer.release()
    with pytest.raises(TypeError, match="closes the database after each call"):
        StoreWriter(tmp_path).connection()


def test_load_filters_and_orders(tmp_path: Path) -> None:
    build_small_run(tmp_path)
    assert [r.rollout_id for r in load(tmp_path, Rollout, run_id=RUN_ID, iteration=1)] == sorted(
        load_id.rollout_id for load_id in load(tmp_path, Rollout)
    )
    assert [r.rollout_id for r in load(tmp_path, Rollout, k=2, kind="training")] == [ROLLOUTS[2]]
    assert len(load(tmp_path, RolloutTokens, logprobs_T=None)) == 1
    assert load(tmp_path, Rollout, policy_version_id=VERSIONS[1], k=3) == []
    assert load(tmp_path, TokenWeight)[0].weights_T == [0.5, 1.5, 4.0]
    assert load(tmp_path, Query) == [make_query(QUERY_ID)]
    with pytest.raises(TypeError, match="Query has no field iteration"):
        load(tmp_path, Query, iteration=1)
