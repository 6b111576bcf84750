"""A run backed up while it goes on, again and again into the same folder, and made again from it."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_run import (
    QUERY_ID,
    VERSIONS,
    Stage,
    build_small_run,
    changed,
    commit,
    many_rows,
    stages,
    start_records,
    update_records,
)

from tapo_core.errors import IntegrityError, TransientError, UserError
from tapo_core.files import delete_folder
from tapo_core.ids import sha256_text, tree_digest
from tapo_core.records import PolicyVersion
from tapo_core.store import backup, load, verified_commits
from tapo_core.store.audit import verify
from tapo_core.store.backup import backup_run, restore_run
from tapo_core.store.export import export_run, import_run
from tapo_core.store.tables import TABLES


def _checkpoint(run: Path, number: int) -> None:
    """A checkpoint and an optimizer state of two files each."""
    for kind in ("hf", "deepspeed"):
        folder = run / "policies" / str(number) / kind
        (folder / "part").mkdir(parents=True)
        (folder / "weights").write_text(f"{kind} {number}")
        (folder / "part" / "tokenizer").write_text(f"{kind}, the same every time")


def _version(run: Path, record: PolicyVersion, number: int) -> PolicyVersion:
    """A policy version whose folders are there."""
    _checkpoint(run, number)
    paths = {kind: f"policies/{number}/{kind}" for kind in ("hf", "deepspeed")}
    return changed(  # type: ignore[no-any-return]
        record,
        checkpoint_path=paths["hf"],
        checkpoint_digest=tree_digest(run / paths["hf"]),
        optimizer_path=paths["deepspeed"],
        optimizer_digest=tree_digest(run / paths["deepspeed"]),
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The small run up to its update, which left a checkpoint and an optimizer state."""
    folder = build_small_run(tmp_path / "small", 4)
    _update(folder)
    (folder / "zpd").mkdir()
    (folder / "zpd" / "train.jsonl").write_text("{}\n")
    return folder


def _update(folder: Path) -> None:
    records = [_version(folder, r, 1) if isinstance(r, PolicyVersion) else r for r in update_records()]
    commit(folder, Stage(1, "update", records))


def _second_update(run: Path) -> None:
    """Another policy version; the optimizer state of the one before is dropped, as the trainer does."""
    version = next(r for r in update_records() if isinstance(r, PolicyVersion))
    version = changed(version, policy_version_id=_id(2), iteration=2, parent_policy_version_id=VERSIONS[1])
    commit(run, Stage(2, "update", [_version(run, version, 2)]))
    delete_folder(run / "policies" / "1" / "deepspeed")


def _id(number: int) -> str:
    return f"00000000-0000-8000-8000-{number:012d}"


def _contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _check_same(one: Path, other: Path) -> None:
    """Rows, commits, policies and views are the same, and an audit of the other is clean."""
    for record_class in TABLES:
        assert load(one, record_class) == load(other, record_class)
    assert verified_commits(one) == verified_commits(other)
    for part in ("store/published", "policies", "zpd"):
        assert _contents(other / part) == _contents(one / part)
    report = verify(other)
    assert report.faults == []
    assert report.chain_digest == verified_commits(one)[-1].chain_digest


def test_a_restored_run_is_the_run(run: Path, tmp_path: Path) -> None:
    made = backup_run(run, tmp_path / "backup")
    assert made.manifest["gone"] == []
    assert made.manifest["outside"] == ["/models/start"]
    assert made.manifest["can_train"] is True
    restore_run(tmp_path / "backup", tmp_path / "again")
    _check_same(run, tmp_path / "again")
    commit(tmp_path / "again", stages()[5])
    assert verify(tmp_path / "again").faults == []


def test_a_second_backup_copies_what_is_new_and_removes_nothing(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    backup_run(run, folder)
    before = _contents(folder / "objects")
    assert backup_run(run, folder).n_copied == 0
    commit(run, stages()[5])
    _second_update(run)
    made = backup_run(run, folder)
    after = _contents(folder / "objects")
    assert after.items() > before.items()
    # Five published files, the ledger, the new weights of checkpoint and optimizer state; what they share is there already.
    n_published = len(list((run / "store").rglob("*evaluate.parquet"))) + 1
    assert made.n_copied == n_published + 1 + 2 == len(after) - len(before)
    # The optimizer state that the run dropped since is still in the backup, and comes back.
    restore_run(folder, tmp_path / "again")
    assert (tmp_path / "again" / "policies" / "1" / "deepspeed" / "weights").read_text() == "deepspeed 1"
    report = verify(tmp_path / "again")
    assert report.faults == []
    assert [f.key for f in report.findings if f.kind == "gone"] == [f"policy_version_id={VERSIONS[0]}"]


def test_only_the_newest_optimizer_state_is_copied(run: Path, tmp_path: Path) -> None:
    version = next(r for r in update_records() if isinstance(r, PolicyVersion))
    version = changed(version, policy_version_id=_id(2), iteration=2, parent_policy_version_id=VERSIONS[1])
    commit(run, Stage(2, "update", [_version(run, version, 2)]))
    files = backup_run(run, tmp_path / "backup").manifest["files"]
    assert {"policies/2/deepspeed/weights", "policies/2/hf/weights", "policies/1/hf/weights"} < set(files)
    assert not any(name.startswith("policies/1/deepspeed") for name in files)


def test_a_crash_leaves_the_earlier_backup(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "backup"
    backup_run(run, folder)
    commit(run, stages()[5])
    _second_update(run)
    add, calls = backup._Objects.add, 0

    def killed(self: backup._Objects, file: Path, likely: str | None = None) -> str:
        nonlocal calls
        calls += 1
        if calls == 25:
            (self.folder / ".99999.tmp").write_text("half a fi")
            raise KeyboardInterrupt
        return add(self, file, likely)

    with monkeypatch.context() as patched:
        patched.setattr(backup._Objects, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            backup_run(run, folder)
    restore_run(folder, tmp_path / "then")
    assert len(verified_commits(tmp_path / "then")) == 5
    assert verify(tmp_path / "then").faults == []
    backup_run(run, folder)
    assert not list((folder / "objects").glob(".*"))
    restore_run(folder, tmp_path / "now")
    assert len(verified_commits(tmp_path / "now")) == 7


def test_a_first_backup_that_was_cut_short_is_finished(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backup"
    with monkeypatch.context() as patched:
        patched.setattr(backup, "publish_text", _raise)
        with pytest.raises(TransientError, match="cannot be made: no space"):
            backup_run(run, folder)
    with pytest.raises(UserError, match="no backup of a run"):
        restore_run(folder, tmp_path / "again")
    assert backup_run(run, folder).n_copied == 0
    restore_run(folder, tmp_path / "again")


def _raise(*_: object) -> None:
    raise OSError("no space")


@contextlib.contextmanager
def _at_file(monkeypatch: pytest.MonkeyPatch, name: str, happens: object) -> Iterator[None]:
    """Let something happen once, just before a file of this name is copied."""
    add, done = backup._Objects.add, []

    def patched(self: backup._Objects, file: Path, likely: str | None = None) -> str:
        if file.as_posix().endswith(name) and not done:
            done.append(file)
            happens()  # type: ignore[operator]
        return add(self, file, likely)

    with monkeypatch.context() as context:
        context.setattr(backup._Objects, "add", patched)
        yield
    assert done


@pytest.mark.parametrize("name", ["part/tokenizer", "weights"])
def test_a_checkpoint_that_goes_while_it_is_copied_is_said_to_be_gone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    checkpoint = run / "policies" / "1" / "hf"
    with _at_file(monkeypatch, f"hf/{name}", lambda: delete_folder(checkpoint)):
        made = backup_run(run, tmp_path / "backup")
    assert made.manifest["gone"] == ["policies/1/hf"]
    assert made.manifest["can_train"] is False
    assert not any(file.startswith("policies/1/hf") for file in made.manifest["files"])
    restore_run(tmp_path / "backup", tmp_path / "again")
    assert verify(tmp_path / "again").faults == []


def test_a_run_that_goes_on_meanwhile_is_backed_up_with_its_newest_optimizer_state(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _at_file(monkeypatch, "1/deepspeed/weights", lambda: _second_update(run)):
        made = backup_run(run, tmp_path / "backup")
    assert made.manifest["can_train"] is True
    assert made.manifest["n_commits"] == 6
    restore_run(tmp_path / "backup", tmp_path / "again")
    assert (tmp_path / "again" / "policies" / "2" / "deepspeed" / "weights").exists()
    assert verify(tmp_path / "again").faults == []


def test_what_was_changed_is_not_backed_up(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    backup_run(run, folder)
    kept = _contents(folder)
    published = next((run / "store" / "published" / "rollout").rglob("*.parquet"))
    content = published.read_bytes()
    published.write_bytes(content + b" ")
    with pytest.raises(IntegrityError, match="is not the file that was backed up before"):
        backup_run(run, folder)
    published.write_bytes(content)
    (run / "policies" / "1" / "hf" / "weights").write_text("other")
    with pytest.raises(IntegrityError, match="hf does not have its recorded digest"):
        backup_run(run, tmp_path / "other")
    assert _contents(folder).items() >= kept.items()
    restore_run(folder, tmp_path / "again")


def test_a_folder_of_something_else_is_refused(run: Path, tmp_path: Path) -> None:
    backup_run(run, tmp_path / "backup")
    other = tmp_path / "other"
    first = changed(start_records()[1], config_json='{"other":1}', config_digest=sha256_text("other"))
    commit(other, Stage(0, "start", [changed(start_records()[0], config_digest=first.config_digest), first]))
    with pytest.raises(UserError, match="is a backup of another run"):
        backup_run(other, tmp_path / "backup")
    with pytest.raises(UserError, match="there are other things than a backup in it"):
        backup_run(run, run)
    export_run(run, tmp_path / "export")
    with pytest.raises(UserError, match="no backup of a run; it may be what `tapo import` takes"):
        restore_run(tmp_path / "export", tmp_path / "again")
    with pytest.raises(UserError, match="no export of a run; it may be what `tapo restore` takes"):
        import_run(tmp_path / "backup", tmp_path / "again")


def test_a_backup_that_was_changed_is_refused(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    backup_run(run, folder)
    with pytest.raises(UserError, match="small exists"):
        restore_run(folder, run)
    manifest = json.loads((folder / "manifest.json").read_text())
    sha256 = manifest["files"]["policies/1/hf/weights"]
    weights = folder / "objects" / sha256[:2] / sha256
    weights.write_text("other")
    with pytest.raises(
        IntegrityError, match=r"is missing or not the file that was backed up \[policies/1/hf/weights\]"
    ):
        restore_run(folder, tmp_path / "again")
    # Whoever changes the manifest with it is found by the digest in the store.
    forged = sha256_text("other")
    (folder / "objects" / forged[:2]).mkdir(exist_ok=True)
    shutil.copy(weights, folder / "objects" / forged[:2] / forged)
    manifest["files"]["policies/1/hf/weights"] = forged
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="policies/1/hf does not have the digest that the run has for it"):
        restore_run(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_more_commits_than_a_backup_saw_are_no_fault(run: Path, tmp_path: Path) -> None:
    backup_run(run, tmp_path / "backup")
    commit(run, Stage(3, "many", many_rows(3, 5)))
    restore_run(tmp_path / "backup", tmp_path / "again")
    assert len(verified_commits(tmp_path / "again")) == 5
    backup_run(run, tmp_path / "backup")
    with pytest.raises(UserError, match="another run, or of this one when it had gone on otherwise"):
        backup_run(tmp_path / "again", tmp_path / "backup")


def _tapo(*arguments: str | Path) -> tuple[int, str]:
    command = [sys.executable, "-c", "from tapo_core.cli.main import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_commands(run: Path, tmp_path: Path) -> None:
    code, said = _tapo("backup", tmp_path / "backup", "--run", run)
    assert code == 0
    assert said.startswith(f"{tmp_path / 'backup'}: 5 commits, ")
    assert "not in the backup: /models/start" in said
    assert _tapo("restore", tmp_path / "backup", tmp_path / "again") == (
        0,
        f"{tmp_path / 'again'}: 5 commits of run small\nto train it further, its folder has to be named small\n",
    )
    code, said = _tapo("redact", QUERY_ID, "--run", tmp_path / "again")
    assert (code, said) == (2, "tapo: a redaction needs a reason, which is kept with it: give --reason\n")
    code, said = _tapo("redact", QUERY_ID, "--run", tmp_path / "again", "--reason", "licence")
    assert code == 0
    assert "redacted in 1 query, 6 rollout_tokens rows; commit 6, chain digest" in said
    assert "not reached: data files, exports and backups made before" in said
    code, said = _tapo("redact", QUERY_ID, "--run", tmp_path / "again", "--reason", "licence")
    assert (code, said) == (0, f"{tmp_path / 'again'}: nothing of query {QUERY_ID} is left to redact\n")
    assert _tapo("restore", tmp_path / "backup", run) == (2, f"tapo: {run} exists; name a new folder\n")
