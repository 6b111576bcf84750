"""A run exported, imported, and without its old checkpoints."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from small_run import CORRECTION_ID, ROLLOUTS, build_small_run

from tapo_core.errors import IntegrityError, UserError
from tapo_core.ids import file_sha256
from tapo_core.keeping import spare_checkpoints, spare_versions
from tapo_core.records import Advantage, Correction, PolicyVersion, Query, Rollout, RolloutTokens
from tapo_core.store import load, verified_commits
from tapo_core.store.audit import verify
from tapo_core.store.export import export_run, import_run


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    run, folder = tmp_path / "run", tmp_path / "export"
    build_small_run(run)
    made = export_run(run, folder)
    assert made["chain_digest"] == verified_commits(run)[-1].chain_digest
    return folder


def test_an_import_is_the_run_again(tmp_path: Path, exported: Path) -> None:
    again = tmp_path / "again"
    import_run(exported, again)
    for record_class in (Query, Rollout, RolloutTokens, Correction, Advantage, PolicyVersion):
        assert load(again, record_class) == load(tmp_path / "run", record_class)
    assert verified_commits(again) == verified_commits(tmp_path / "run")
    assert verify(again).faults == []


def test_datasets_loads_the_trajectories_and_nothing_else(exported: Path, tmp_path: Path) -> None:
    found = datasets.load_dataset(str(exported), cache_dir=str(tmp_path / "cache"))
    rows = found["train"].to_list()
    assert {row["trajectory_id"] for row in rows} >= {*ROLLOUTS, CORRECTION_ID}
    (constructed,) = (row for row in rows if row["trajectory_id"] == CORRECTION_ID)
    assert constructed["kind"] == "constructed"
    assert constructed["text"] == load(tmp_path / "run", Correction)[0].constructed_text


def test_a_changed_or_missing_file_is_named(tmp_path: Path, exported: Path) -> None:
    file = next((exported / "store" / "published" / "rollout").rglob("*.parquet"))
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=rf"{file.name} is missing or not the file that was exported"):
        import_run(exported, tmp_path / "again")
    file.unlink()
    with pytest.raises(IntegrityError, match="is missing or not the file"):
        import_run(exported, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_ledger_that_does_not_fit_its_files_is_refused(tmp_path: Path, exported: Path) -> None:
    """Whoever changes a file and the manifest with it is found by the chain."""
    ledger = exported / "store" / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"stage":"', '"stage":"x', 1))
    manifest = json.loads((exported / "manifest.json").read_text())
    manifest["files"]["store/ledger.jsonl"] = file_sha256(ledger)
    (exported / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="cannot be made anew"):
        import_run(exported, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "store/../../outside"])
def test_an_export_cannot_reach_outside(tmp_path: Path, exported: Path, name: str) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    manifest["files"][name] = "0" * 64
    (exported / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="is outside the export"):
        import_run(exported, tmp_path / "again")


def test_nothing_is_overwritten(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(UserError, match="export exists"):
        export_run(tmp_path / "run", exported)
    with pytest.raises(UserError, match="run exists"):
        import_run(exported, tmp_path / "run")
    with pytest.raises(UserError, match="no export of a run"):
        import_run(tmp_path, tmp_path / "again")


def test_old_checkpoints_can_go_but_not_the_newest_or_the_best(tmp_path: Path) -> None:
    build_small_run(tmp_path)
    initial, first = load(tmp_path, PolicyVersion)[:2]
    if initial.parent_policy_version_id is not None:
        initial, first = first, initial
    later = [replace(first, policy_version_id=f"v{n}", iteration=n) for n in (2, 3, 4, 5)]
    versions, scores = [*later, initial, first], {first.policy_version_id: 0.2, "v2": 0.7, "v3": 0.7, "v5": 0.1}
    assert spare_versions(versions, scores, keep=1) == [first, later[0], later[2]]
    assert spare_versions(versions, scores, keep=3) == [first, later[0]]
    assert spare_versions(versions, {}, keep=2) == [first, later[0], later[1]]
    assert spare_versions(versions, scores, keep=9) == []
    (tmp_path / first.checkpoint_path).mkdir(parents=True)
    assert spare_checkpoints(tmp_path, keep=1) == [], "the only trained version is the newest"
