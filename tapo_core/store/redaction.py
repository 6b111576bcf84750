"""Redaction: which columns can lose their text, and what redactions say about a row. (`redact` makes one.)

A redaction is a committed row that has a row's digest as it was committed and as it is afterwards. Whoever computes a commit's
content digest takes the former in place of the latter, so the chain stays what it was, and every other change is still found.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow

from tapo_core.ids import canonical_json
from tapo_core.records import Redaction
from tapo_core.store.findings import Report
from tapo_core.store.tables import Column, Table

Key = tuple[Any, ...]

#: What stands in place of a text.
REDACTED = "[redacted]"

#: What holds a query's own words, by table. Always redacted.
PROBLEM: Mapping[str, tuple[str, ...]] = {
    "query": ("text",),
    "query_overlap": ("text",),  # of the query, or of one that is its duplicate
    "rollout_tokens": (
        "prompt_token_ids",
    ),  # the plain prompt, and the construction prompt, which has the problem in it
}
#: What models made of a query, and its gold answer. Redacted with ``--outputs``.
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "query": ("gold",),
    "rollout": ("text",),
    "rollout_tokens": ("token_ids_T", "logprobs_T"),
    "verification": ("extracted_answer", "gold"),
    "error_location": ("evidence", "votes"),  # evidence quotes a step; votes have what was sampled
    "correction": ("raw_output", "parse_detail", "analysis", "diagnosis", "correction", "constructed_text"),
}
#: Columns of text or lists that stay, each with the reason. (Ids, enums, numbers and times are in neither list.)
KEPT: Mapping[str, Mapping[str, str]] = {
    "run": dict.fromkeys(("name", "method", "config_digest", "tapo_version", "engine_versions"), "about the run"),
    "config": dict.fromkeys(("config_digest", "config_json"), "settings; data.instruction is that of every query"),
    "config_change": dict.fromkeys(
        ("config_digest", "config_json", "changes", "reason", "made_by"), "settings, and who changed them"
    ),
    "policy_version": dict.fromkeys(
        ("checkpoint_path", "checkpoint_digest", "optimizer_path", "optimizer_digest"), "about a policy"
    ),
    "query": {
        "split": "a name",
        "family": "a name",
        "source": "file and row; where to look for what was redacted",
        "content_sha256": "a digest: with the query's id, what ties the run to its data",
    },
    "query_overlap": {"source": "file and row", "other_split": "a name"},
    "rollout": {"engine": "a name", "content_sha256": "a digest"},
    "verification": {
        "tier": "a word",
        "reason": "the verifier's own words",
        "verifier": "a name",
        "verifier_version": "a version",
    },
    "error_location": {
        "method": "a name",
        "prompt_version": "a template's name",
        "prompt_sha256": "of the template, without a problem",
    },
    "correction": {
        "prompt_version": "a template's name",
        "prompt_sha256": "of the template, without a problem",
        "content_sha256": "a digest",
    },
    "selection_decision": {"reason": "a word"},
    "advantage": {"scope": "a word"},
    "token_weight": dict.fromkeys(("weights_T", "logprobs_T", "entropies_T"), "numbers that the update was made with"),
    "update_metric": {"name": "a name"},
    "evaluation": {"dataset": "a name", "metric": "a name", "interval_method": "a name"},
    "cold_start_example": {"content_sha256": "a digest"},
    "origin": dict.fromkeys(
        ("parent_run_name", "parent_folder", "parent_config_digest", "parent_chain_digest"), "about another run"
    ),
    "turn": dict.fromkeys(
        ("stop_tokens", "stop_texts", "end_named_by", "found_in", "template_clock"), "about the model and the day"
    ),
    "redaction": dict.fromkeys(
        ("reason", "table_name", "row_key", "columns", "original_digest", "redacted_digest"), "the redaction itself"
    ),
}


def redactable(outputs: bool) -> dict[str, tuple[str, ...]]:
    """The columns that a redaction empties, by table."""
    tables = dict.fromkeys([*PROBLEM, *(OUTPUTS if outputs else ())])
    return {name: PROBLEM.get(name, ()) + (OUTPUTS.get(name, ()) if outputs else ()) for name in tables}


def redacted_value(column: Column, value: Any) -> Any:
    """What stands in place of a value. What is missing stays missing; a redacted value stays as it is."""
    if value is None:
        return None
    if column.name == "votes":
        return canonical_json([_redacted_vote(vote) for vote in json.loads(value)])
    return [] if column.sql_type.endswith("[]") else REDACTED


def _redacted_vote(vote: Mapping[str, Any]) -> dict[str, Any]:
    """A vote without what was sampled: seeds, outcomes and counts stay."""
    texts = {"output": lambda text: REDACTED, "outputs": lambda texts: [None if t is None else REDACTED for t in texts]}
    return {name: texts[name](value) if name in texts and value is not None else value for name, value in vote.items()}


@dataclass(frozen=True, slots=True)
class RowRedaction:
    """What all redactions of one row come to."""

    query_id: str
    original: str  #: the row's digest as it was committed
    steps: tuple[str, ...]  #: its digest after each redaction; the last is what it has now
    columns: tuple[str, ...]  #: all that were redacted

    def as_committed(self, row_digest: str) -> str:
        """The digest that counts for the content digest of the row's commit."""
        return self.original if row_digest in self.steps else row_digest

    def is_due(self, row_digest: str) -> bool:
        """Whether a row is as it was before the last redaction, which was not applied to it yet."""
        return row_digest != self.steps[-1] and row_digest in (self.original, *self.steps)

    def is_of_texts(self, table: Table, row: Mapping[str, Any]) -> bool:
        """Whether a row has redacted values in all columns that were redacted, which are such that can be."""
        columns = {column.name: column for column in table.columns}
        allowed = redactable(outputs=True).get(table.name, ())
        try:
            return all(
                name in allowed and row[name] == redacted_value(columns[name], row[name]) for name in self.columns
            )
        except (ValueError, TypeError, AttributeError, KeyError):  # votes that are none
            return False

    def is_foreign(self, row_digest: str) -> bool:
        """Whether a row is nothing that it was or is."""
        return row_digest not in (self.original, *self.steps)


class Redactions:
    """What the redactions of a run say about its rows."""

    def __init__(self, rows: Iterable[Redaction] = ()) -> None:
        """`rows`: in the order in which they were committed."""
        self.by_table: dict[str, dict[Key, RowRedaction]] = {}
        for row in rows:
            table = self.by_table.setdefault(row.table_name, {})
            key = tuple(json.loads(row.row_key))
            columns = tuple(json.loads(row.columns))
            before = table.get(key)
            if before is None:
                table[key] = RowRedaction(row.query_id, row.original_digest, (row.redacted_digest,), columns)
            else:
                table[key] = RowRedaction(
                    row.query_id,
                    before.original,
                    (*before.steps, row.redacted_digest),
                    tuple(dict.fromkeys((*before.columns, *columns))),
                )

    def of(self, table: str) -> Mapping[Key, RowRedaction]:
        """The redacted rows of a table."""
        return self.by_table.get(table, {})

    def as_committed(self, digests: Mapping[str, Mapping[Key, str]]) -> dict[str, dict[Key, str]]:
        """Digests of rows, by table and key, as they were when the rows were committed."""
        return {
            name: {key: found[key].as_committed(value) if key in found else value for key, value in rows.items()}
            for name, rows in digests.items()
            for found in (self.of(name),)
        }


class Progress:
    """How far redactions were applied, as an audit meets the rows."""

    def __init__(self, redactions: Redactions) -> None:
        self._redactions = redactions
        self._due: Counter[tuple[str, str]] = Counter()  #: rows by query and part

    def explains(self, table: str, key: Key, part: str, row_digest: str, *others: str) -> bool:
        """Whether a redaction has all these digests of a row, of which the first is the one in a part of the store.

        If that is one from before, the redaction is unfinished there.
        """
        redacted = self._redactions.of(table).get(key)
        if redacted is None or any(redacted.is_foreign(value) for value in (row_digest, *others)):
            return False
        self._due[redacted.query_id, part] += redacted.is_due(row_digest)
        return True

    def wrong(self, table: Table, digests: Mapping[Key, str], rows: pyarrow.Table) -> Iterator[tuple[Key, str]]:
        """The redacted rows of a published file that are not what their redaction says, and why."""
        found = self._redactions.of(table.name)
        if not found or len(digests) < rows.num_rows:
            return
        for index, (key, row_digest) in enumerate(digests.items()):
            if key not in found:
                continue
            if not self.explains(table.name, key, "published files", row_digest):
                yield key, "it is not the row that its redaction left"
            elif row_digest == found[key].steps[-1] and not found[key].is_of_texts(
                table, rows.slice(index, 1).to_pylist()[0]
            ):
                yield key, "its redaction is about more than texts, or left one"

    def tell(self, report: Report, run_folder: Path) -> None:
        """Add a finding for each redaction that a crash cut short."""
        for (query_id, part), count in sorted((+self._due).items()):
            command = f"tapo redact {query_id} --run {run_folder}"
            message = f"{count} rows in {part} still have what was redacted; `{command}` finishes it"
            report.add("unfinished", "redaction", message, table="query", key=f"query_id={query_id}")
