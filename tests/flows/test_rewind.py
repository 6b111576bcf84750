"""A run taken back to before a stage, and done again from there, on the real engines."""

import os
import shutil
from pathlib import Path

import pytest

from flows.train import train
from tapo_core.cli.runs import rewind
from tapo_core.config import TapoConfig
from tapo_core.errors import UserError
from tapo_core.files import delete_folder
from tapo_core.records import PolicyVersion, Query
from tapo_core.replay import replay
from tapo_core.resume import resumable
from tapo_core.rewind import finish_rewind, rewind_run
from tapo_core.store import load, verified_commits
from tapo_core.store.audit import verify
from tapo_core.store.redact import redact_query
from tests.flows.conftest import Configure

pytestmark = pytest.mark.usefixtures("prefect_server")


def stages(folder: Path) -> list[tuple[int, str]]:
    return [(commit.iteration, commit.stage) for commit in verified_commits(folder)]


def checkpoints(folder: Path) -> dict[int, str]:
    return {version.iteration: version.checkpoint_digest for version in load(folder, PolicyVersion)}


@pytest.fixture
def trained(configure: Configure) -> TapoConfig:
    config = configure("again", "run.iterations=2")
    train(config)
    return config


def test_a_run_is_done_again_from_a_stage_on(trained: TapoConfig) -> None:
    folder = trained.run_folder
    before = verified_commits(folder)
    policies = checkpoints(folder)
    rewind(folder, "diagnose_and_correct", None)

    kept = folder.with_name("again.before-rewind-1")
    assert verified_commits(kept) == before
    assert verify(kept).faults == []
    n_kept = stages(kept).index((2, "diagnose_and_correct"))
    after = verified_commits(folder)
    assert after[:n_kept] == before[:n_kept]
    (told,) = after[n_kept:]
    assert (told.iteration, told.stage) == (2, "rewind-1")
    assert told.manifest == {
        "from": "diagnose_and_correct",
        "n_commits": len(before) - n_kept,
        "chain_digest": before[-1].chain_digest,
        "kept_in": kept.name,
    }
    assert verify(folder).faults == []

    config, _ = resumable(folder)
    assert train(config)["digest"] != before[-2].chain_digest, "another chain"
    assert stages(folder) == [*stages(kept)[:n_kept], (2, "rewind-1"), *stages(kept)[n_kept:]]
    assert checkpoints(folder) == policies, "the same seeds gave the same policies"
    assert verify(folder).faults == []
    assert replay(folder).differences == []
    # What Prefect remembers of the stages is what was done last, not what was done first.
    assert train(config)["digest"] == verified_commits(folder)[-2].chain_digest

    rewind(folder, None, 2)
    assert stages(folder)[-1] == (2, "rewind-1")
    assert stages(folder)[:-1] == stages(kept)[: stages(kept).index((2, "sample"))]
    assert sorted(path.name for path in folder.parent.iterdir() if path.name.startswith("again")) == [
        "again",
        "again.before-rewind-1",
        "again.before-rewind-2",
    ]


def test_what_cannot_be_done_again_is_said_and_changes_nothing(
    trained: TapoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained.run_folder
    before = verified_commits(folder)
    for stage, iteration in (("sample", 3), ("start", 0), ("smaple", 2)):
        with pytest.raises(UserError, match=f"{stage} of iteration {iteration} is not a stage that can be done again"):
            rewind_run(folder, stage, iteration)
    with pytest.raises(UserError, match="no run in"):
        rewind_run(folder.with_name("absent"), "sample", 1)
    optimizer = folder / "policies" / "000001" / "deepspeed"
    away = folder / "away"
    shutil.move(optimizer, away)
    with pytest.raises(UserError, match="the optimizer state of policy version 1 is gone"):
        rewind_run(folder, "sample", 2)
    shutil.move(away, optimizer)

    real = os.replace

    def dies(source: Path, place: Path) -> None:
        real(source, place)
        if ".before-rewind-" in Path(place).name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            rewind_run(folder, "update_policy", 2)
    assert not folder.exists()
    finish_rewind(folder)
    assert stages(folder)[-2:] == [(2, "filter_by_difficulty"), (2, "rewind-1")]
    assert verified_commits(folder.with_name("again.before-rewind-1")) == before

    delete_folder(folder)
    shutil.move(folder.with_name("again.before-rewind-1"), folder)
    query = load(folder, Query)[0]
    redact_query(folder, query.query_id, "asked for")
    with pytest.raises(UserError, match="a query was redacted since"):
        rewind_run(folder, "sample", 2)
    assert verified_commits(folder)[: len(before)] == before
