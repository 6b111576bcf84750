"""How many bytes a rollout takes in the store, by its length: the entries store_* of `tapo_core/plan/rates.toml`.

    .venv/bin/python benchmarks/plan_store.py

Commits synthetic runs (`synthetic_run.py`) whose rollouts have 64 and 512 tokens on average into new stores. All rows count: a
rollout's own, its verdict, decisions, advantage, and its share of the constructed trajectories and their token weights. Printed:
bytes a rollout of the database and the published Parquet, and the straight line through the two lengths.
"""

import tempfile
from pathlib import Path

from synthetic_run import GROUP_SIZE, SyntheticRun, commit

from tapo_core.store.connection import database_path, published_folder

LENGTHS, N_ITERATIONS, N_GROUPS = (64, 512), 10, 60


def bytes_of(n_tokens: int) -> tuple[float, float]:
    """Bytes a rollout: of the database, of the published files."""
    run = SyntheticRun(n_tokens)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commit(folder, 0, "start", run.start())
        for iteration in range(1, N_ITERATIONS + 1):
            for stage, records in run.stages(iteration, N_GROUPS):
                commit(folder, iteration, stage, records)
        count = N_ITERATIONS * N_GROUPS * GROUP_SIZE
        published = sum(file.stat().st_size for file in published_folder(folder).rglob("*.parquet"))
        return database_path(folder).stat().st_size / count, published / count


def main() -> None:
    """Measure and print."""
    found = {}
    for n_tokens in LENGTHS:
        database, published = found[n_tokens] = bytes_of(n_tokens)
        print(f"{n_tokens:4d} tokens: database {database:.0f}, published {published:.0f} bytes a rollout", flush=True)
    short, long = LENGTHS
    slope = (sum(found[long]) - sum(found[short])) / (long - short)
    print(f"together: {sum(found[short]) - slope * short:.0f} bytes a rollout and {slope:.1f} a token")


if __name__ == "__main__":
    main()
