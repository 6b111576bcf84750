"""What is found out about a run with a redacted query, what a crash leaves of a redaction, and what works on such a run."""

import contextlib
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
    make_tokens,
)
from test_processes import HOLD, process
from worded_run import OTHER_ID, PROMPT, TEXT, where

from tapo_core.errors import IntegrityError, StoreLockedError, UserError
from tapo_core.ids import deterministic_id
from tapo_core.records import (
    ErrorLocation,
    Redaction,
    Verification,
)
from tapo_core.store import StoreWriter, load, redact, verified_commits
from tapo_core.store.audit import verify
from tapo_core.store.backup import backup_run, restore_run
from tapo_core.store.connection import database_path, ledger_path
from tapo_core.store.export import export_run, import_run
from tapo_core.store.publish import published_file, read_published
from tapo_core.store.redact import redact_query
from tapo_core.store.redaction import REDACTED
from tapo_core.store.repair import repair
from tapo_core.store.rows import keys_and_digests, to_arrow
from tapo_core.store.tables import TABLES


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


def test_a_redaction_of_what_is_no_text_is_found(worded: Path) -> None:
    """A changed verdict, in file and database, with a redaction that was committed for it."""
    first = next(c for c in verified_commits(worded) if "verification" in c.row_counts)
    verdict = next(v for v in load(worded, Verification) if v.subject_id == ROLLOUTS[0]).verification_id
    key, other = f"verification_id={verdict}", {"outcome": "wrong", "reward": 0.0}
    was = dict(keys_and_digests(TABLES[Verification], to_arrow(TABLES[Verification], load(worded, Verification))))

    def forge(row: dict[str, Any]) -> None:
        row.update(other if row["verification_id"] == verdict else {})

    _edit_file(worded, "verification", forge)
    _edit_database(worded, f"UPDATE verification SET outcome = 'wrong', reward = 0 WHERE verification_id = '{verdict}'")
    now = read_published(published_file(worded, first, "verification"), TABLES[Verification]).digests
    for columns in ('["reward","outcome"]', '["gold"]'):
        forged = Redaction(
            redaction_id=deterministic_id("redaction", iteration=1, columns=columns),
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
        forged_run = shutil.copytree(worded, worded.with_name(f"forged{len(columns)}"))
        commit(forged_run, Stage(0, "redact-1", [forged]))
        found = [(f.part, f.key, f.message) for f in verify(forged_run).faults]
        assert found == [("published", key, "its redaction is about more than texts, or left one")]


def test_a_row_redacted_without_a_redaction_is_found(worded: Path) -> None:
    _edit_database(worded, f"UPDATE query SET text = '{REDACTED}' WHERE query_id = '{QUERY_ID}'")
    _edit_file(worded, "query", lambda row: row.update(text=REDACTED if row["query_id"] == QUERY_ID else row["text"]))
    assert any(f.kind == "changed" and f.part == "published" for f in verify(worded).faults)


def test_a_text_that_comes_back_is_called_unfinished_and_taken_out_again(worded: Path) -> None:
    """An older copy of the database, and an older copy of a file."""
    old = {path: path.read_bytes() for path in (database_path(worded), *(worded / "store").rglob("*-start.parquet"))}
    redact_query(worded, QUERY_ID, "licence")
    for path, content in old.items():
        if "query" in path.parts or path.suffix == ".duckdb":
            path.write_bytes(content)
    assert ("unfinished", "redaction") in {(f.kind, f.part) for f in verify(worded).faults}
    with pytest.raises(UserError, match=r"redaction of query .* is not finished; run `tapo redact"):
        backup_run(worded, worded.with_name("backup"))
    repair(worded)  # the older copy of the database lacks a commit
    assert where(worded / "store", "Zebediah")
    redact_query(worded, QUERY_ID, None)
    assert where(worded / "store", "Zebediah") == set()
    assert verify(worded).faults == []


_KILLED_AT = """
import os, sys
from pathlib import Path
from small_run import QUERY_ID
from tapo_core.store import repair, redact
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
def test_a_crash_between_any_two_steps_is_finished_by_the_same_command(worded: Path, step: str) -> None:
    copy = database_path(worded).with_name("trajectories.duckdb.damaged-1")
    shutil.copy(database_path(worded), copy)
    code = _KILLED_AT.replace("RENAME", "Publisher._rename").replace("REPLACING", '(folder / "store" / NEW).exists()')
    code = code.replace("NEW", '"trajectories.duckdb.new"')
    with process(code, str(worded), step) as child:
        assert child.wait() == 9
    left = where(worded / "store", "Zebediah")
    assert (any(name.endswith(".parquet") for name in left), "trajectories.duckdb" in left) == _STEPS[step]
    unfinished = [f for f in verify(worded).faults if f.kind == "unfinished"]
    assert len(unfinished) == sum(_STEPS[step])
    assert all(f"`tapo redact {QUERY_ID} --run {worded}` finishes it" in f.message for f in unfinished)
    assert {f.kind for f in verify(worded).faults} <= {"unfinished"}
    StoreWriter(worded).migrate()  # as a writer would that opens the store next
    assert list((worded / "store" / "publishing").iterdir()) == []
    assert redact_query(worded, QUERY_ID, None).commit is None
    assert where(worded / "store", "Zebediah") == set()
    assert not copy.exists()
    assert verify(worded).faults == []
    assert verified_commits(worded)[-1].stage == "redact-1"


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
    assert where(tmp_path, "Zebediah") == set()
    commit(redacted, Stage(2, "more", [make_query(deterministic_id("query", n=2), "Start with 9.")]))
    assert verify(redacted).faults == []


def test_a_backup_takes_the_redacted_files_and_says_nothing_of_a_fault(worded: Path, tmp_path: Path) -> None:
    backup_run(worded, tmp_path / "backup")
    redact_query(worded, QUERY_ID, "licence")
    assert backup_run(worded, tmp_path / "backup").n_copied > 0
    restore_run(tmp_path / "backup", tmp_path / "again")
    assert where(tmp_path / "again", "Zebediah") == set()
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


def test_nothing_is_redacted_while_the_run_is_in_use(worded: Path) -> None:
    with process(HOLD, str(database_path(worded))) as holder, pytest.raises(StoreLockedError) as error:
        redact_query(worded, QUERY_ID, "licence", lock_seconds=0.2)
    assert f"nothing is redacted while a run trains. {database_path(worded)} is held by PID {holder.pid}" in str(
        error.value
    )
    assert len(verified_commits(worded)) == 8


def test_a_stage_that_commits_just_before_the_decision_is_redacted_too(
    worded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = make_rollout(7, "7 + 12 = 19", rollout_id=deterministic_id("rollout", iteration=1, n="late"))
    tokens = changed(make_tokens(late.rollout_id), prompt_token_ids=PROMPT)
    plan, seen = redact._plan, []

    def raced(*arguments: Any) -> Any:
        found = plan(*arguments)
        if not seen:
            seen.append(commit(worded, Stage(2, "late", [late, tokens])))
        return found

    monkeypatch.setattr(redact, "_plan", raced)
    redact_query(worded, QUERY_ID, "licence")
    assert [c.stage for c in verified_commits(worded)][-3:] == ["late", "redact-1", "redact-2"]
    assert where(worded / "store", "70001") == set()
    assert verify(worded).faults == []


def test_a_stage_that_was_at_work_cannot_bring_the_text_back(redacted: Path) -> None:
    late = make_rollout(7, "7 + 12 = 19", rollout_id=deterministic_id("rollout", iteration=1, n="late"))
    location = next(record for record in correct_records() if isinstance(record, ErrorLocation))
    for record in (late, changed(location, error_location_id=deterministic_id("location", iteration=1, n="late"))):
        with pytest.raises(IntegrityError, match=f"query {QUERY_ID} was redacted meanwhile"):
            commit(redacted, Stage(2, "late", [record]))
    with pytest.raises(IntegrityError, match="with different content in: text"):
        commit(redacted, Stage(2, "late", [make_query(text=TEXT)]))
    commit(redacted, Stage(2, "late", [changed(late, query_id=OTHER_ID)]))
    assert verify(redacted).faults == []
