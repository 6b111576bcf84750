"""A study of made-up runs: real stores, whose every sample is given by a rule."""

import json
from collections.abc import Callable
from pathlib import Path

from small_run import changed, make_query, make_rollout, make_verification

from tapo_core.ids import deterministic_id, sha256_text
from tapo_core.records import Config, PolicyVersion, RolloutKind, Run, UpdateMetric, VerificationOutcome
from tapo_core.store import Record, StoreWriter
from tapo_core.study.plan import PlannedRun

N_PROBLEMS, N_SAMPLES = 4, 4

STUDY = """
[study]
name = "made"
base = "base.toml"
seeds = [0, 1]
steps = 2
output_dir = "runs"
curves = ["tapo", "grpo"]
set.evaluation = { every = 1, queries = 4, samples = 4 }

[families.chain]
title = "chained arithmetic"

[policies.cold]

[variants.tapo]
title = "TAPO"

[variants.grpo]
title = "GRPO"
set.method = "grpo"
steps_factor = 1.5

[[comparisons]]
first = "tapo"
second = "grpo"
at = ["steps", "tokens"]
"""

#: Whether sample k of a problem is correct, and whether it reflects, after an iteration.
Rule = Callable[[PlannedRun, int, int, int], tuple[bool, bool]]


def write_study(folder: Path, text: str = STUDY, base: str = '[run]\nname = "base"\n') -> Path:
    """The study file and its base."""
    (folder / "base.toml").write_text(base)
    file = folder / "study.toml"
    file.write_text(text)
    return file


def by_steps(run: PlannedRun, iteration: int, problem: int, k: int) -> tuple[bool, bool]:
    """TAPO solves one more problem an iteration, GRPO half of each sample of it; seed 1 begins with one. Last samples reflect."""
    n_solved = iteration + run.seed
    solved = problem < n_solved
    return solved and (run.variant == "tapo" or k % 2 == 0), k == N_SAMPLES - 1


def make_run(run: PlannedRun, tokens: int = 10, iterations: int | None = None, rule: Rule = by_steps) -> None:
    """A whole run, or its first iterations; each generates as many tokens, twice as many with constructions."""
    run_id = deterministic_id("run", name=run.name, config_digest=run.config.digest)
    versions = [deterministic_id("policy_version", run=run.name, iteration=n) for n in range(9)]
    queries = [
        changed(make_query(deterministic_id("query", n=n), f"Problem {n}."), run_id=run_id, split="held_out")
        for n in range(N_PROBLEMS)
    ]
    queries = [changed(query, content_sha256=sha256_text(query.text)) for query in queries]
    writer = StoreWriter(run.folder, lock_seconds=5)

    def commit(iteration: int, stage: str, records: list[Record], **manifest: int) -> None:
        writer.commit_stage(
            run_id=run_id,
            iteration=iteration,
            stage=stage,
            config_digest=run.config.digest,
            input_digest=sha256_text(stage),
            manifest=dict(manifest),
            records=records,
        )

    def samples(iteration: int, kind: RolloutKind) -> list[Record]:
        records: list[Record] = []
        for number, query in enumerate(queries):
            for k in range(N_SAMPLES):
                correct, reflects = rule(run, iteration, number, k)
                rollout_id = deterministic_id("rollout", iteration=iteration, run=run.name, kind=kind, n=number, k=k)
                rollout = make_rollout(
                    k, "Wait, 19." if reflects else "19.", rollout_id=rollout_id, kind=kind,
                    policy_version_id=versions[iteration if kind is RolloutKind.EVALUATION else iteration - 1],
                )  # fmt: skip
                outcome = VerificationOutcome.CORRECT if correct else VerificationOutcome.WRONG
                verdict = changed(
                    make_verification(rollout_id, outcome, "19"),
                    verification_id=deterministic_id("verification", iteration=iteration, subject=rollout_id),
                    run_id=run_id,
                    iteration=iteration,
                )
                rollout = changed(rollout, run_id=run_id, iteration=iteration, query_id=query.query_id)
                records += [rollout, verdict]
        return records

    config_json = json.dumps(run.config.model_dump(mode="json"))
    made = Run(run_id, run.name, run.seed, run.config.method, run.config.digest, "1.2.3", "{}", "2026-01-02T03:04:05Z")
    first = PolicyVersion(versions[0], run_id, 0, None, "/models/start", sha256_text("v0"), None, None, 0)
    commit(0, "start", [made, Config(run.config.digest, config_json), first, *queries])
    commit(0, "evaluate", samples(0, RolloutKind.EVALUATION))
    last = run.config.run.iterations
    for n in range(1, (last if iterations is None else iterations) + 1):
        commit(n, "sample", samples(n, RolloutKind.TRAINING), n_tokens=tokens)
        if run.config.method == "tapo":
            commit(n, "locate_error", [], n_tokens=tokens // 2)
            commit(n, "diagnose_and_correct", [], n_tokens=tokens - tokens // 2)
        version = PolicyVersion(
            versions[n], run_id, n, versions[n - 1], f"policies/{n}", sha256_text(f"v{n}"), None, None, n
        )
        commit(n, "update_policy", [version, UpdateMetric(run_id, n, versions[n], 0, "loss", 0.5 * n)])
        if n == last or n % run.config.evaluation.every == 0:
            commit(n, "evaluate", samples(n, RolloutKind.EVALUATION))
