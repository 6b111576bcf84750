"""A query's text taken out of a run: gone from every byte of its store, and everything else provably as it was."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
import pyarrow.parquet
import pytest
from small_run import (
    QUERY_ID,
    ROLLOUTS,
    RUN_ID,
    Stage,
    changed,
    commit,
    correct_records,
    make_query,
    make_rollout,
    stages,
    start_records,
)
from test_processes import _process as process

from tapo_core.errors import IntegrityError, StoreLockedError, UserError
from tapo_core.ids import deterministic_id, sha256_text
from tapo_core.keeping import drop_from_views
from tapo_core.records import (
    Config,
    Correction,
    ErrorLocation,
    OverlapKind,
    Query,
    QueryOverlap,
    Redaction,
    Rollout,
    RolloutTokens,
    Run,
    TokenRole,
    Verification,
)
from tapo_core.store import StoreWriter, load, verified_commits
from tapo_core.store.audit import verify
from tapo_core.store.backup import backup_run, restore_run
from tapo_core.store.connection import database_path, ledger_path
from tapo_core.store.export import export_run, import_run
from tapo_core.store.publish import TABLES_BY_NAME, published_file, read_published
from tapo_core.store.redact import ABOUT, redact_query
from tapo_core.store.redaction import KEPT, OUTPUTS, PROBLEM, REDACTED
from tapo_core.store.repair import repair
from tapo_core.store.rows import keys_and_digests, to_arrow
from tapo_core.store.tables import TABLES

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


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    for stage in stages():
        commit(folder, _worded(stage))
    # The problem is on a level that reminds of another one, whose rollout must stay as it is.
    other = changed(make_rollout(0, "5 + 3 = 8", rollout_id=deterministic_id("rollout", n="other")), query_id=OTHER_ID)
    commit(folder, Stage(1, "other", [other]))
    assert verify(folder).faults == []
    return folder


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def redacted_once(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("redacted") / "run"
    shutil.copytree(original, folder)
    redact_query(folder, QUERY_ID, "licence")
    return folder


@pytest.fixture
def redacted(redacted_once: Path, tmp_path: Path) -> Path:
    shutil.copytree(redacted_once, tmp_path / "run")
    return tmp_path / "run"


def _where(folder: Path, *needles: str) -> set[str]:
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


def test_a_text_is_gone_from_every_byte_and_everything_else_is_as_it_was(run: Path) -> None:
    before = {record_class: load(run, record_class) for record_class in TABLES}
    commits = verified_commits(run)
    assert {"trajectories.duckdb", "00000001-start.parquet"} <= _where(run / "store", "Zebediah")
    assert "00000002-sample.parquet" in _where(run / "store", "70001")
    shutil.copy(database_path(run), database_path(run).with_name("trajectories.duckdb.damaged-1"))

    done = redact_query(run, QUERY_ID, "licence")

    assert done.rows == {"query": 1, "query_overlap": 2, "rollout_tokens": 6}
    assert _where(run / "store", "Zebediah", "70001", "marbles") == set()
    assert verified_commits(run)[:-1] == commits, "no digest of an older commit changed"
    assert done.commit == verified_commits(run)[-1]
    report = verify(run)
    assert report.faults == []
    assert report.n_redacted == 9
    assert report.chain_digest == done.commit.chain_digest
    after = {record_class: load(run, record_class) for record_class in TABLES}
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
    assert _where(redacted / "store", *written)
    done = redact_query(redacted, QUERY_ID, "privacy", outputs=True)
    assert done.rows == {
        **{"query": 1, "rollout": 5, "rollout_tokens": 6, "verification": 6, "error_location": 1, "correction": 1}
    }
    assert _where(redacted / "store", *written) == set()
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
    twin = make_query(OTHER_ID, text.upper())
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


def _edit_file(run: Path, table: str, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the rows of the first published file of a table."""
    made = next(c for c in verified_commits(run) if table in c.row_counts)
    file = published_file(run, made, table)
    with pyarrow.parquet.ParquetFile(file) as parquet:
        rows = parquet.read()
    cells = rows.to_pylist()
    for cell in cells:
        edit(cell)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(cells, schema=rows.schema), file)


def _edit_database(run: Path, *statements: str) -> None:
    with contextlib.closing(duckdb.connect(database_path(run))) as connection:
        for statement in statements:
            connection.execute(statement)


def test_changes_to_a_redacted_row_are_found(redacted: Path) -> None:
    _edit_database(redacted, f"UPDATE query SET gold = '20' WHERE query_id = '{QUERY_ID}'")
    (finding,) = verify(redacted).faults
    assert (finding.part, finding.table, finding.key, finding.columns) == (
        "database", "query", f"query_id={QUERY_ID}", ("gold",),
    )  # fmt: skip
    _edit_file(redacted, "query", lambda row: row.update(gold="20" if row["query_id"] == QUERY_ID else row["gold"]))
    found = {(f.kind, f.part, f.key) for f in verify(redacted).faults}
    assert ("changed", "published", f"query_id={QUERY_ID}") in found, "also when both copies say the same"
    with pytest.raises(IntegrityError, match="cannot be made anew"):
        repair(redacted)
    with pytest.raises(IntegrityError, match=r"are not as they were written: .* Nothing was redacted"):
        redact_query(redacted, QUERY_ID, "privacy", outputs=True)


def test_another_text_in_place_of_a_redacted_one_is_found(redacted: Path) -> None:
    text = "Start with nothing."
    _edit_database(redacted, f"UPDATE query SET text = '{text}' WHERE query_id = '{QUERY_ID}'")
    _edit_file(redacted, "query", lambda row: row.update(text=text if row["query_id"] == QUERY_ID else row["text"]))
    assert ("changed", "query") in {(f.kind, f.table) for f in verify(redacted).faults}


def test_a_forged_redaction_is_found(redacted: Path) -> None:
    """A row that was changed, and a redaction that says that it was redacted so: in the database, in a file, in both."""
    for digest in ("redacted_digest", "original_digest"):
        run = shutil.copytree(redacted, redacted.with_name(digest))
        _edit_database(run, f"UPDATE redaction SET {digest} = 'f' WHERE table_name = 'query'")
        assert [(f.part, f.table, f.columns) for f in verify(run).faults] == [("database", "redaction", (digest,))]
        _edit_file(run, "redaction", lambda row, name=digest: row.update({name: "f"}))  # type: ignore[misc]
        assert any(f.part == "published" and "redact-1" in f.message for f in verify(run).faults)
    _edit_database(redacted, "DELETE FROM redaction")
    assert {(f.kind, f.part, f.table) for f in verify(redacted).faults} == {("missing", "database", "redaction")}
    assert repair(redacted).faults
    assert verify(redacted).faults == []


def test_a_redaction_of_what_is_no_text_is_found(run: Path) -> None:
    """A changed verdict, in file and database, with a redaction that was committed for it."""
    first = next(c for c in verified_commits(run) if "verification" in c.row_counts)
    verdict = next(v for v in load(run, Verification) if v.subject_id == ROLLOUTS[0]).verification_id
    key, other = f"verification_id={verdict}", {"outcome": "wrong", "reward": 0.0}
    was = dict(keys_and_digests(TABLES[Verification], to_arrow(TABLES[Verification], load(run, Verification))))

    def forge(row: dict[str, Any]) -> None:
        row.update(other if row["verification_id"] == verdict else {})

    _edit_file(run, "verification", forge)
    _edit_database(run, f"UPDATE verification SET outcome = 'wrong', reward = 0 WHERE verification_id = '{verdict}'")
    now = read_published(published_file(run, first, "verification"), TABLES[Verification]).digests
    for columns in ('["reward","outcome"]', '["gold"]'):
        forged = Redaction(
            redaction_id=deterministic_id("redaction", columns=columns),
            run_id=RUN_ID,
            iteration=1,
            query_id=QUERY_ID,
            reason="none",
            table_name="verification",
            row_key=f'["{verdict}"]',
            columns=columns,
            original_digest=was[(verdict,)],
            redacted_digest=now[(verdict,)],
        )
        forged_run = shutil.copytree(run, run.with_name(f"forged{len(columns)}"))
        commit(forged_run, Stage(0, "redact-1", [forged]))
        found = [(f.part, f.key, f.message) for f in verify(forged_run).faults]
        assert found == [("published", key, "its redaction is about more than texts, or left one")]


def test_a_row_redacted_without_a_redaction_is_found(run: Path) -> None:
    _edit_database(run, f"UPDATE query SET text = '{REDACTED}' WHERE query_id = '{QUERY_ID}'")
    _edit_file(run, "query", lambda row: row.update(text=REDACTED if row["query_id"] == QUERY_ID else row["text"]))
    assert any(f.kind == "changed" and f.part == "published" for f in verify(run).faults)


def test_a_text_that_comes_back_is_called_unfinished_and_taken_out_again(run: Path) -> None:
    """An older copy of the database, and an older copy of a file."""
    old = {path: path.read_bytes() for path in (database_path(run), *(run / "store").rglob("*-start.parquet"))}
    redact_query(run, QUERY_ID, "licence")
    for path, content in old.items():
        if "query" in path.parts or path.suffix == ".duckdb":
            path.write_bytes(content)
    assert ("unfinished", "redaction") in {(f.kind, f.part) for f in verify(run).faults}
    with pytest.raises(UserError, match=r"redaction of query .* is not finished; run `tapo redact"):
        backup_run(run, run.with_name("backup"))
    repair(run)  # the older copy of the database lacks a commit
    assert _where(run / "store", "Zebediah")
    redact_query(run, QUERY_ID, None)
    assert _where(run / "store", "Zebediah") == set()
    assert verify(run).faults == []


_KILLED_AT = """
import os, sys
from pathlib import Path
from small_run import QUERY_ID
from tapo_core.store import redact, repair
from tapo_core.store.publish import Publisher
folder, step = Path(sys.argv[1]), sys.argv[2]
print("begun", flush=True)

def die(*_, **__):
    os._exit(9)

replace, calls = Publisher.replace, []

def second(self, *rest):
    calls.append(rest)
    return die() if len(calls) == 2 else replace(self, *rest)

if step == "decided":
    Publisher.replace = die
elif step == "one file":
    Publisher.replace = second
elif step == "half a file":
    Publisher._rename = (lambda real: lambda self, t, p: real(self, t, p) if "redaction" in p.parts else die())(RENAME)
elif step == "files":
    redact.rebuild = die
elif step == "new database":
    repair._log = (lambda real: lambda path: die() if REPLACING else real(path))(repair._log)
elif step == "database":
    redact.damaged_copies = die
redact.redact_query(folder, QUERY_ID, "licence")
"""
_STEPS = {  # what is left of the text after a crash: in published files, in the database
    "decided": (True, True),
    "one file": (True, True),
    "half a file": (True, True),
    "files": (False, True),
    "new database": (False, True),
    "database": (False, False),
}


#: The others take another ten seconds each on a slow machine.
_QUICK = {"decided", "half a file", "files"}


@pytest.mark.parametrize("step", [s if s in _QUICK else pytest.param(s, marks=pytest.mark.slow) for s in _STEPS])
def test_a_crash_between_any_two_steps_is_finished_by_the_same_command(run: Path, step: str) -> None:
    copy = database_path(run).with_name("trajectories.duckdb.damaged-1")
    shutil.copy(database_path(run), copy)
    code = _KILLED_AT.replace("RENAME", "Publisher._rename").replace("REPLACING", '(folder / "store" / NEW).exists()')
    code = code.replace("NEW", '"trajectories.duckdb.new"')
    with process(code, str(run), step) as child:
        assert child.wait() == 9
    left = _where(run / "store", "Zebediah")
    assert (any(name.endswith(".parquet") for name in left), "trajectories.duckdb" in left) == _STEPS[step]
    unfinished = [f for f in verify(run).faults if f.kind == "unfinished"]
    assert len(unfinished) == sum(_STEPS[step])
    assert all(f"`tapo redact {QUERY_ID} --run {run}` finishes it" in f.message for f in unfinished)
    assert {f.kind for f in verify(run).faults} <= {"unfinished"}
    StoreWriter(run).migrate()  # as a writer would that opens the store next
    assert list((run / "store" / "publishing").iterdir()) == []
    assert redact_query(run, QUERY_ID, None).commit is None
    assert _where(run / "store", "Zebediah") == set()
    assert not copy.exists()
    assert verify(run).faults == []
    assert verified_commits(run)[-1].stage == "redact-1"


def test_a_redacted_run_is_repaired_exported_backed_up_and_goes_on(redacted: Path, tmp_path: Path) -> None:
    rows = {record_class: load(redacted, record_class) for record_class in TABLES}
    database_path(redacted).unlink()
    repair(redacted)
    export_run(redacted, tmp_path / "export")
    import_run(tmp_path / "export", tmp_path / "imported")
    backup_run(redacted, tmp_path / "backup")
    restore_run(tmp_path / "backup", tmp_path / "restored")
    for folder in (redacted, tmp_path / "imported", tmp_path / "restored"):
        assert {record_class: load(folder, record_class) for record_class in TABLES} == rows
        assert verify(folder).faults == []
    assert _where(tmp_path, "Zebediah") == set()
    commit(redacted, Stage(2, "more", [make_query(deterministic_id("query", n=2), "Start with 9.")]))
    assert verify(redacted).faults == []


def test_a_backup_takes_the_redacted_files_and_says_nothing_of_a_fault(run: Path, tmp_path: Path) -> None:
    backup_run(run, tmp_path / "backup")
    redact_query(run, QUERY_ID, "licence")
    assert backup_run(run, tmp_path / "backup").n_copied > 0
    restore_run(tmp_path / "backup", tmp_path / "again")
    assert _where(tmp_path / "again", "Zebediah") == set()
    assert verify(tmp_path / "again").faults == []


def test_commits_are_published_again_from_a_redacted_database(redacted: Path) -> None:
    """As if ledger and files had been lost behind the database."""
    commits = verified_commits(redacted)
    lines = ledger_path(redacted).read_bytes().splitlines(keepends=True)
    ledger_path(redacted).write_bytes(b"".join(lines[:1]))
    for made in commits[1:]:
        for table in made.row_counts:
            published_file(redacted, made, table).unlink()
    StoreWriter(redacted).migrate()
    assert verified_commits(redacted) == commits
    assert verify(redacted).faults == []


def test_nothing_is_redacted_while_the_run_is_in_use(run: Path) -> None:
    hold = "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); print('held', flush=True); time.sleep(60)"
    with process(hold, str(database_path(run))) as holder, pytest.raises(StoreLockedError) as error:
        redact_query(run, QUERY_ID, "licence", lock_seconds=0.2)
    assert f"nothing is redacted while a run trains. {database_path(run)} is held by PID {holder.pid}" in str(
        error.value
    )
    assert len(verified_commits(run)) == 8


def test_a_stage_that_was_at_work_cannot_bring_the_text_back(redacted: Path) -> None:
    late = make_rollout(7, "7 + 12 = 19", rollout_id=deterministic_id("rollout", n="late"))
    location = next(record for record in correct_records() if isinstance(record, ErrorLocation))
    for record in (late, changed(location, error_location_id=deterministic_id("location", n="late"))):
        with pytest.raises(IntegrityError, match=f"query {QUERY_ID} was redacted meanwhile"):
            commit(redacted, Stage(2, "late", [record]))
    with pytest.raises(IntegrityError, match="with different content in: text"):
        commit(redacted, Stage(2, "late", [make_query(text=TEXT)]))
    commit(redacted, Stage(2, "late", [changed(late, query_id=OTHER_ID)]))
    assert verify(redacted).faults == []


def test_bad_input_is_said_and_writes_nothing(run: Path) -> None:
    with pytest.raises(UserError, match="no query has the id nobody"):
        redact_query(run, "nobody", "licence")
    with pytest.raises(UserError, match="needs a reason"):
        redact_query(run, QUERY_ID, None)
    with pytest.raises(UserError, match="needs a reason"):
        redact_query(run, QUERY_ID, "  ")
    with pytest.raises(UserError, match="no run in"):
        redact_query(run / "nowhere", QUERY_ID, "licence")
    assert len(verified_commits(run)) == 8


def test_lines_about_the_query_go_from_what_flows_wrote(tmp_path: Path) -> None:
    for name, key in (("zpd/train.jsonl", "id"), ("cold_start/examples.jsonl", "query_id")):
        file = tmp_path / name
        file.parent.mkdir()
        file.write_text("".join(json.dumps({key: query, "text": query}) + "\n" for query in (QUERY_ID, OTHER_ID)))
    summary = tmp_path / "zpd" / "summary.json"
    summary.write_text(json.dumps({"n_kept": 2, "n_queries": 3, "train_sha256": "x"}))
    assert len(drop_from_views(tmp_path, QUERY_ID)) == 2
    assert _where(tmp_path, QUERY_ID) == set()
    assert _where(tmp_path, OTHER_ID) == {"train.jsonl", "examples.jsonl"}
    told = json.loads(summary.read_text())
    assert told == {
        "n_kept": 1,
        "n_queries": 3,
        "train_sha256": sha256_text((tmp_path / "zpd" / "train.jsonl").read_text()),
    }
    assert drop_from_views(tmp_path, QUERY_ID) == []
