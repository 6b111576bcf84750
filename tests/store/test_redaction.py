"""A query's text taken out of a run: gone from every byte of its store, and everything else provably as it was."""

import json
import shutil
from pathlib import Path

import pytest
from small_run import (
    QUERY_ID,
    ROLLOUTS,
    Stage,
    changed,
    commit,
    correct_records,
    make_query,
    make_rollout,
    start_records,
)
from worded_run import OTHER_ID, TEXT, VOTES, where

from tapo_core.errors import UserError
from tapo_core.files import publish_text
from tapo_core.ids import canonical_json, sha256_text
from tapo_core.keeping import drop_from_views
from tapo_core.records import (
    Config,
    Correction,
    ErrorLocation,
    Query,
    QueryOverlap,
    Redaction,
    Rollout,
    RolloutTokens,
    Run,
    TokenRole,
    Verification,
)
from tapo_core.store import load, verified_commits
from tapo_core.store.audit import verify
from tapo_core.store.connection import database_path
from tapo_core.store.publish import TABLES_BY_NAME
from tapo_core.store.redact import ABOUT, redact_query
from tapo_core.store.redaction import KEPT, OUTPUTS, PROBLEM, REDACTED
from tapo_core.store.tables import TABLES


def test_a_text_is_gone_from_every_byte_and_everything_else_is_as_it_was(worded: Path) -> None:
    before = {record_class: load(worded, record_class) for record_class in TABLES}
    commits = verified_commits(worded)
    assert {"trajectories.duckdb", "00000001-start.parquet"} <= where(worded / "store", "Zebediah")
    assert "00000002-sample.parquet" in where(worded / "store", "70001")
    shutil.copy(database_path(worded), database_path(worded).with_name("trajectories.duckdb.damaged-1"))

    done = redact_query(worded, QUERY_ID, "licence")

    assert done.rows == {"query": 1, "query_overlap": 2, "rollout_tokens": 6}
    assert where(worded / "store", "Zebediah", "70001", "marbles") == set()
    assert verified_commits(worded)[:-1] == commits, "no digest of an older commit changed"
    assert done.commit == verified_commits(worded)[-1]
    report = verify(worded)
    assert report.faults == []
    assert report.n_redacted == 9
    assert report.chain_digest == done.commit.chain_digest
    after = {record_class: load(worded, record_class) for record_class in TABLES}
    expected = {
        Query: [changed(q, text=REDACTED) if q.query_id == QUERY_ID else q for q in before[Query]],
        QueryOverlap: [changed(overlap, text=REDACTED) for overlap in before[QueryOverlap]],
        RolloutTokens: [changed(row, prompt_token_ids=[]) for row in before[RolloutTokens]],
        Redaction: after[Redaction],
    }
    assert after == before | expected
    assert {(row.table_name, row.reason, row.query_id) for row in after[Redaction]} == {
        (table, "licence", QUERY_ID) for table in done.rows
    }


def test_with_outputs_nothing_that_a_model_wrote_is_left(redacted: Path) -> None:
    written = ["7 + 12 = 18", "voter", "The first sum", "Wait, 7 + 12", "The answer is 19", "reconstruction"]
    assert where(redacted / "store", *written)
    done = redact_query(redacted, QUERY_ID, "privacy", outputs=True)
    assert done.rows == {
        **{"query": 1, "rollout": 5, "rollout_tokens": 6, "verification": 6, "error_location": 1, "correction": 1}
    }
    assert where(redacted / "store", *written) == set()
    assert verify(redacted).faults == []
    (location,) = load(redacted, ErrorLocation)
    assert location.evidence == REDACTED
    assert json.loads(location.votes or "") == [
        VOTES[0] | {"output": REDACTED},
        VOTES[1],
        VOTES[2] | {"outputs": [REDACTED, None]},
    ]
    (correction,) = load(redacted, Correction)
    assert (correction.raw_output, correction.constructed_text, correction.parse_detail) == (REDACTED, REDACTED, None)
    tokens = {(row.subject_id, row.role): row for row in load(redacted, RolloutTokens)}
    assert all(row.token_ids_T == [] and row.prompt_token_ids == [] for row in tokens.values())
    assert tokens[correction.correction_id, TokenRole.CONSTRUCTED].logprobs_T is None
    assert {row.gold for row in load(redacted, Verification)} == {REDACTED}
    assert [rollout.text for rollout in load(redacted, Rollout, query_id=OTHER_ID)] == ["5 + 3 = 8"]
    # The row was redacted twice, and both say what it was at first.
    originals = {(row.table_name, row.row_key): set[str]() for row in load(redacted, Redaction)}
    for row in load(redacted, Redaction):
        originals[row.table_name, row.row_key].add(row.original_digest)
    assert {len(digests) for digests in originals.values()} == {1}
    assert redact_query(redacted, QUERY_ID, "again", outputs=True).commit is None
    other = redact_query(redacted, OTHER_ID, "licence")
    assert other.rows == {"query": 1}, "the overlap with it is redacted already"
    assert [c.stage for c in verified_commits(redacted)][-3:] == ["redact-1", "redact-2", "redact-3"]
    assert verify(redacted).faults == []


def test_outputs_that_quote_the_problem_are_counted(tmp_path: Path) -> None:
    settings = Config(sha256_text("x"), '{"data":{"instruction":"Put the answer at the very end of your text."}}')
    text = f"{TEXT}\nPut the answer at the very end of your text."
    first = [
        changed(record, config_digest=settings.config_digest) if isinstance(record, Run) else record
        for record in start_records()
        if not isinstance(record, Query | Config)
    ]
    twin = make_query(OTHER_ID, text.replace(TEXT, TEXT.upper()))
    commit(tmp_path, Stage(0, "start", [*first, settings, make_query(text=text), twin]))
    said = [
        "Zebediah STARTS with 7 marbles, and then his",
        "Zebediah starts with 7 marbles",
        "Put the answer at the very end of",
    ]
    rollouts = [changed(make_rollout(k, words), content_sha256="x") for k, words in enumerate(said)]
    votes = '[{"seed":1,"output":"so his aunt\\ngives him 12 more of them."}]'
    location = next(r for r in correct_records() if isinstance(r, ErrorLocation))
    location = changed(location, rollout_id=ROLLOUTS[1], votes=votes)
    commit(tmp_path, Stage(1, "sample", [*rollouts, location]))
    with pytest.raises(UserError, match="the reason quotes the problem"):
        redact_query(tmp_path, QUERY_ID, "no marbles: Zebediah starts with 7 marbles and then his")
    done = redact_query(tmp_path, QUERY_ID, "licence")
    assert done.quoted == {"rollout.text": 1, "error_location.votes": 1}
    assert done.same_words == (OTHER_ID,)


def test_every_column_of_text_is_redacted_or_kept_for_a_reason() -> None:
    for table in TABLES.values():
        texts = {
            c.name for c in table.columns if c.enum is None and (c.sql_type == "VARCHAR" or c.sql_type.endswith("[]"))
        }
        lists = [set(PROBLEM.get(table.name, ())), set(OUTPUTS.get(table.name, ())), set(KEPT.get(table.name, ()))]
        assert set.union(*lists) == texts, f"{table.name}: put each column of text into a list of store/redaction.py"
        assert sum(map(len, lists)) == len(texts), table.name
        assert all(KEPT.get(table.name, {}).values())
        assert not (lists[0] | lists[1]) & set(table.key)
    assert {*PROBLEM, *OUTPUTS} == set(ABOUT)
    assert {*PROBLEM, *OUTPUTS, *KEPT} <= TABLES_BY_NAME.keys()


def test_bad_input_is_said_and_writes_nothing(worded: Path) -> None:
    with pytest.raises(UserError, match="no query has the id nobody"):
        redact_query(worded, "nobody", "licence")
    with pytest.raises(UserError, match="needs a reason"):
        redact_query(worded, QUERY_ID, None)
    with pytest.raises(UserError, match="needs a reason"):
        redact_query(worded, QUERY_ID, "  ")
    with pytest.raises(UserError, match="no run in"):
        redact_query(worded / "nowhere", QUERY_ID, "licence")
    assert len(verified_commits(worded)) == 8


def test_lines_about_the_query_go_from_what_flows_wrote(tmp_path: Path) -> None:
    for name, key in (("zpd/train.jsonl", "id"), ("cold_start/examples.jsonl", "query_id")):
        file = tmp_path / name
        # As the flows write it: a line separator in a text is no end of a line.
        rows = ({key: query, "text": f"{query}\u2028\x85"} for query in (QUERY_ID, OTHER_ID))
        publish_text(file, map(canonical_json, rows))
    summary = tmp_path / "zpd" / "summary.json"
    summary.write_text(json.dumps({"n_kept": 2, "n_queries": 3, "train_sha256": "x"}))
    assert len(drop_from_views(tmp_path, QUERY_ID)) == 2
    assert where(tmp_path, QUERY_ID) == set()
    assert where(tmp_path, OTHER_ID) == {"train.jsonl", "examples.jsonl"}
    told = json.loads(summary.read_text())
    assert told == {
        "n_kept": 1,
        "n_queries": 3,
        "train_sha256": sha256_text((tmp_path / "zpd" / "train.jsonl").read_text()),
    }
    assert drop_from_views(tmp_path, QUERY_ID) == []
