"""A run that trains further from its backup, as if nothing had happened."""

import shutil
from pathlib import Path

import pytest

from flows.train import train
from tapo_core.ids import file_sha256
from tapo_core.records import RolloutTokens, UpdateMetric
from tapo_core.store import load, verified_commits
from tapo_core.store.audit import verify
from tapo_core.store.backup import backup_run, restore_run
from tests.flows.conftest import Configure

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_restored_run_trains_further_bit_for_bit(configure: Configure, tmp_path: Path) -> None:
    config = configure("kept")
    train(config)
    made = backup_run(config.run_folder, tmp_path / "backup")
    assert made.manifest["can_train"] is True
    further = configure("kept", "run.iterations=2")
    train(further)
    found = []
    for again in (False, True):
        if again:
            shutil.rmtree(config.run_folder)
            restore_run(tmp_path / "backup", config.run_folder)
            assert verified_commits(config.run_folder)[-1].iteration == 1
            train(further)
        weights = file_sha256(config.run_folder / "policies" / "000002" / "hf" / "model.safetensors")
        chain = [(c.iteration, c.stage, c.content_digest) for c in verified_commits(config.run_folder)]
        found.append((weights, chain, load(config.run_folder, RolloutTokens), load(config.run_folder, UpdateMetric)))
    assert found[0] == found[1]
    assert verify(config.run_folder).faults == []
