"""The trajectory store: everything a run does, in one DuckDB file, and published as Parquet for all who ask by SQL.

The rules that the rest of TAPO builds on:

1. A run's folder holds ``store/trajectories.duckdb``, ``store/published/`` and ``store/ledger.jsonl``. Only this package
   opens them.
2. One record class is one table. Values are checked on their way in and come back equal; log-probabilities and OTS
   weights are float32.
3. A stage writes once, in one transaction (`StoreWriter.commit_stage`). Asked again with the same config and inputs, it
   gets its commit back and nothing is written; asked with others, it is refused.
4. A key stands for one content. The same row again is no news; another row under the same key is an error.
5. Every id that a row names is in the store when the row is.
6. Commits are chained by digests, and each leaves a line in the ledger. A database that lost a commit does not open.
7. Each commit is published as Parquet files, which nothing changes but a redaction (`redact`). The order is: temporaries,
   COMMIT, CHECKPOINT, renaming, ledger. Readers go by the ledger, so they never meet a line without its files, and files
   without a line do not exist for them; the next writer finishes what a crash left between these steps (see `publish`, which
   says why that is sound).
8. One process writes, and opens the database; whoever comes second waits, then hears who holds it. Everyone else reads
   snapshots (`open_reader`): the commits that were in the ledger then. Readers wait for nobody, and nobody waits for them.
9. People's SQL (`query`) reads this store and nothing else, for a limited time.
10. `audit.verify` computes everything again and names what is not as it was written; `repair` makes a damaged database anew
    from published files that verify. Nothing is repaired silently.
11. A lake (`lake`) gathers the published files of many runs. A run's own ledger comes first; the lake follows.
"""

from tapo_core.store.batches import content_digest
from tapo_core.store.commits import StageCommit
from tapo_core.store.lineage import Lineage, LineageEdge, LineageNode, lineage, render_tree, to_json, to_mermaid
from tapo_core.store.reader import StoreReader, load, query, verified_commits
from tapo_core.store.snapshot import open_reader
from tapo_core.store.tables import Record
from tapo_core.store.writer import StoreWriter

__all__ = [
    "Lineage",
    "LineageEdge",
    "LineageNode",
    "Record",
    "StageCommit",
    "StoreReader",
    "StoreWriter",
    "content_digest",
    "lineage",
    "load",
    "open_reader",
    "query",
    "render_tree",
    "to_json",
    "to_mermaid",
    "verified_commits",
]
