"""Two runs without an engine, and the viewer's pages as a client gets them."""

from pathlib import Path

import pytest
from small_run import CONFIG_DIGEST, RUN_ID, VERSIONS, build_small_run, changed, make_rollout, make_verification
from starlette.testclient import TestClient
from synthetic_run import SyntheticRun
from synthetic_run import commit as commit_synthetic

from tapo_core.ids import deterministic_id, sha256_text
from tapo_core.records import RolloutKind, VerificationOutcome
from tapo_core.store import Record, StoreWriter
from tapo_core.viewer.app import create_app

N_ITERATIONS = 4
ADDRESS = "http://127.0.0.1"


def evaluate_again(folder: Path, iteration: int, n_correct: int) -> None:
    """An evaluation of the small run's query by four rollouts, so many of them correct, in another iteration."""
    records: list[Record] = []
    for k in range(4):
        rollout_id = deterministic_id("rollout", iteration=iteration, k=k, why="evaluation")
        rollout = make_rollout(k, f"evaluated {k}", rollout_id=rollout_id, kind=RolloutKind.EVALUATION)
        outcome = VerificationOutcome.CORRECT if k < n_correct else VerificationOutcome.WRONG
        verification_id = deterministic_id("verification", iteration=iteration, subject=rollout_id)
        verdict = changed(
            make_verification(rollout_id, outcome, "19"), verification_id=verification_id, iteration=iteration
        )
        records += [changed(rollout, iteration=iteration, policy_version_id=VERSIONS[0]), verdict]
    StoreWriter(folder).commit_stage(
        run_id=RUN_ID,
        iteration=iteration,
        stage="evaluate",
        config_digest=CONFIG_DIGEST,
        input_digest=sha256_text(f"evaluate {iteration}"),
        manifest={"train/pass@1": n_correct / 4, "train/low": 0.1, "train/high": 0.9},
        records=records,
    )


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs: ``small``, whose numbers can be checked by eye, and ``drawn``, with four iterations."""
    folder = tmp_path_factory.mktemp("runs")
    build_small_run(folder / "small")
    evaluate_again(folder / "small", 2, 1)
    evaluate_again(folder / "small", 3, 4)
    run = SyntheticRun(20, n_queries=60)
    commit_synthetic(folder / "drawn", 0, "start", run.start())
    for iteration in range(1, N_ITERATIONS + 1):
        for stage, records in run.stages(iteration, 8):
            commit_synthetic(folder / "drawn", iteration, stage, records)
    return folder


@pytest.fixture(scope="session")
def client(runs_folder: Path) -> TestClient:
    """The viewer of that folder."""
    return TestClient(create_app([runs_folder]), base_url=ADDRESS)
