"""The rates that `tapo plan` expects of the built-in model on this machine: the entries of `tapo_core/plan/rates.toml`.

    .venv/bin/python benchmarks/plan_rates.py [--iterations 4]

Runs the train flow on the built-in model (configs/nano_tapo.toml) in a temporary folder and prints tokens a second of sampling
and of the update, seconds an iteration beside the engines, memory of the process, and the store's bytes a rollout. The first
iteration, in which the engines start, is left out of the rates.
"""

import argparse
import datetime
import os
import resource
import statistics
import tempfile
from pathlib import Path

from iteration_overhead import ROOT, TIMED, Split

from flows.train import train
from tapo_core.config_file import load_config
from tapo_core.progress import reporting
from tapo_core.store import query
from tapo_core.store.connection import database_path, published_folder

SAMPLED = "SELECT iteration, sum(n_tokens) AS n FROM rollout WHERE kind = 'training' GROUP BY ALL ORDER BY ALL"
TRAINED = """
SELECT iteration, sum(len(prompt_token_ids) + len(token_ids_T)) AS n
FROM rollout_tokens JOIN advantage USING (subject_id, iteration)
WHERE role <> 'correction' GROUP BY ALL ORDER BY ALL
"""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=4)
    iterations = parser.parse_args().iterations
    split = Split()
    for owner, name, kind in TIMED:
        setattr(owner, name, split.timed(getattr(owner, name), kind))
    with tempfile.TemporaryDirectory() as folder, reporting(split):
        settings = ["run.name=r", f"run.output_dir={folder}", f"run.iterations={iterations}", "evaluation.every=0"]
        train(load_config(ROOT / "configs" / "nano_tapo.toml", settings))
        run = Path(folder) / "r"
        sampled = dict(query(run, SAMPLED).itertuples(index=False))
        trained = dict(query(run, TRAINED).itertuples(index=False))
        rollouts = int(query(run, "SELECT count(*) AS n FROM rollout").iloc[0, 0])
        mean = float(query(run, "SELECT avg(n_tokens) AS n FROM rollout").iloc[0, 0])
        published = sum(file.stat().st_size for file in published_folder(run).rglob("*.parquet"))
        store = database_path(run).stat().st_size + published
    later = range(2, iterations + 1)
    seconds = {stage: [split.seconds[i, stage, "engine"] for i in later] for stage in ("sample", "update_policy")}
    engines = ("sample", "diagnose_and_correct", "update_policy")
    rest = [split.wall[i] - sum(split.seconds[i, stage, "engine"] for stage in engines) for i in later]
    print(datetime.datetime.now(datetime.UTC).date(), f"{os.cpu_count()} cores, load {os.getloadavg()}")
    print(f"sampling    {float(sum(sampled[i] for i in later)) / sum(seconds['sample']):.0f} tokens/s")
    print(
        f"updating    {float(sum(trained[i] for i in later)) / sum(seconds['update_policy']):.0f} tokens/s, scoring included"
    )
    print(f"rest        {statistics.median(rest):.2f} s an iteration beside the engines, median")
    print(f"memory      {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB at most")
    print(
        f"store       {store / rollouts:.0f} bytes a rollout of {mean:.0f} tokens ({rollouts} rollouts, evaluations too)"
    )


if __name__ == "__main__":
    main()
