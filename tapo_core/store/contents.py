"""What rows say about contents: texts, and the folders of policy versions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow

from tapo_core.ids import digest, tree_digest
from tapo_core.store.findings import Report
from tapo_core.store.redaction import Redactions

#: Of what ``content_sha256`` is the digest (see `tapo_core.data`, `stages.sample`, `stages.diagnose_and_correct`). The token ids
#: of a rollout come to it.
_CONTENTS = {
    "query": ("query_id", "text", "gold"),
    "rollout": ("rollout_id", "text"),
    "correction": ("correction_id", "raw_output", "constructed_text"),
}


def check_contents(report: Report, rows: Mapping[str, pyarrow.Table], redactions: Redactions) -> None:
    """``content_sha256`` of a commit's rows, by table. (A rollout without its token ids in the same commit is left out, and
    so is a redacted row.)"""
    tokens: dict[str, list[int]] = {}
    if "rollout" in rows and "rollout_tokens" in rows:
        columns = rows["rollout_tokens"].select(["subject_id", "role", "token_ids_T"]).to_pylist()
        tokens = {row["subject_id"]: row["token_ids_T"] for row in columns if row["role"] == "rollout"}
    for name, (key, *columns) in _CONTENTS.items():
        if name not in rows:
            continue
        for row in rows[name].select([key, *columns, "content_sha256"]).to_pylist():
            if (row[key],) in redactions.of(name):
                continue
            content = {column: row[column] for column in columns}
            if name == "rollout":
                if row[key] not in tokens:
                    continue
                content["token_ids"] = tokens[row[key]]
            if row["content_sha256"] != digest(content):
                message = "content_sha256 is not the digest of the content"
                report.add(
                    *("changed", "published", message), table=name, key=f"{key}={row[key]}", columns=("content_sha256",)
                )


def check_checkpoints(report: Report, run_folder: Path, versions: Sequence[Mapping[str, Any]]) -> None:
    """The folders of policy versions (rows of ``policy_version``) against their digests.

    A folder that is not there is "gone": old optimizer states are deleted on purpose, and a run may come without the rest.
    """
    for row in versions:
        where: dict[str, Any] = {"table": "policy_version", "key": f"policy_version_id={row['policy_version_id']}"}
        for kind in ("checkpoint", "optimizer"):
            path = row[f"{kind}_path"]
            if path is None:
                continue
            folder = run_folder / path
            if not folder.is_dir():
                report.add("gone", "checkpoint", f"{path} was deleted and cannot be checked", **where)
            elif tree_digest(folder) != row[f"{kind}_digest"]:
                message = f"{path} does not have its recorded digest"
                report.add("changed", "checkpoint", message, columns=(f"{kind}_digest",), **where)
