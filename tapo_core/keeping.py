"""Which checkpoints of a run can go; and redacted queries in the files that flows write from the store."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tapo_core.files import publish_text
from tapo_core.ids import canonical_json, file_sha256
from tapo_core.records import Evaluation, PolicyVersion
from tapo_core.store import load

#: The report on a run (`viewer.report`), in its folder.
REPORT = "report.html"


def spare_versions(versions: Sequence[PolicyVersion], scores: Mapping[str, float], keep: int) -> list[PolicyVersion]:
    """The trained policy versions that are neither among the newest `keep` nor the best, oldest first.

    `scores`: held-out pass@1 by id, of those that were evaluated; of equal ones the newest is the best. The initial model is
    never among them.
    """
    trained = sorted((v for v in versions if v.parent_policy_version_id is not None), key=lambda v: v.iteration)
    evaluated = [version for version in trained if version.policy_version_id in scores]
    best = max(evaluated, key=lambda v: (scores[v.policy_version_id], v.iteration), default=None)
    return [version for version in trained[: max(0, len(trained) - keep)] if version is not best]


def spare_checkpoints(run_folder: Path, keep: int) -> list[Path]:
    """The checkpoints of a run's `spare_versions` that are still there.

    The newest is what a run goes on from. No row goes with them: what was sampled from a policy stays known, with the digest of
    its checkpoint.

    Raises:
        UserError: no run in the folder.
    """
    found = load(run_folder, Evaluation, dataset="held_out", metric="pass@1")
    scores = {row.policy_version_id: row.value for row in sorted(found, key=lambda row: row.again or 1)}
    versions = spare_versions(load(run_folder, PolicyVersion), scores, keep)
    folders = [run_folder / version.checkpoint_path for version in versions]
    return [folder for folder in folders if folder.is_dir()]


def drop_from_views(run_folder: Path, query_id: str) -> list[Path]:
    """Take a query's lines out of the data sets that flows wrote in a run's folder; returns the files that had some.

    They are views of the store, and whoever writes them again leaves redacted queries out. A report that names the query
    goes as a whole.
    """
    changed = []
    report = run_folder / REPORT
    if report.exists() and query_id in report.read_text(encoding="utf-8"):
        report.unlink()
        changed.append(report)
    for file in (run_folder / "zpd" / "train.jsonl", run_folder / "cold_start" / "examples.jsonl"):
        lines = _lines(file) if file.exists() else []
        kept = [line for line in lines if query_id not in (json.loads(line).get(name) for name in ("id", "query_id"))]
        if len(kept) < len(lines):
            publish_text(file, kept)
            changed.append(file)
    summary = run_folder / "zpd" / "summary.json"
    if summary.exists():
        # Also where a crash came between the two.
        told, file = json.loads(summary.read_text(encoding="utf-8")), summary.with_name("train.jsonl")
        now = {"n_kept": len(_lines(file)), "train_sha256": file_sha256(file)}
        if any(told[name] != value for name, value in now.items()):
            publish_text(summary, [canonical_json(told | now)])
    return changed


def _lines(file: Path) -> list[str]:
    """The lines of a file that `publish_text` wrote. (str.splitlines would also split at U+2028, which may be in a text.)"""
    with file.open(encoding="utf-8", newline="\n") as opened:
        return [line.removesuffix("\n") for line in opened]
