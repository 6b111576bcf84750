"""A fork: a new run from a policy version of another, on the real engines."""

import shutil

import pytest

from flows.train import train
from tapo_core.errors import ConfigError, UserError
from tapo_core.records import Origin, PolicyVersion
from tapo_core.resume import forked
from tapo_core.store import lineage, load, verified_commits
from tests.flows.conftest import Configure

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_fork_begins_with_any_policy_version_and_says_so(configure: Configure) -> None:
    parent = configure("parent", 'method="grpo"', "run.iterations=2")
    train(parent)
    made = {version.iteration: version for version in load(parent.run_folder, PolicyVersion)}
    by_place = {(commit.iteration, commit.stage): commit for commit in verified_commits(parent.run_folder)}

    config = forked(parent.run_folder, "child", 1, ["update.learning_rate=1e-3", "run.iterations=1"])
    assert (config.run.name, config.update.learning_rate) == ("child", 1e-3)
    train(config)
    (origin,) = load(config.run_folder, Origin)
    assert (origin.parent_run_name, origin.parent_iteration) == ("parent", 1)
    assert origin.parent_policy_version_id == made[1].policy_version_id
    assert origin.parent_chain_digest == by_place[1, "update_policy"].chain_digest
    own = {version.iteration: version for version in load(config.run_folder, PolicyVersion)}
    assert own[0].checkpoint_digest == made[1].checkpoint_digest
    assert own[1].checkpoint_digest not in {made[1].checkpoint_digest, made[2].checkpoint_digest}
    assert load(parent.run_folder, Origin) == [], "the built-in model comes from no run"

    found = lineage(config.run_folder, own[1].policy_version_id)
    steps = {(edge.child_id, edge.relation, edge.parent_id) for edge in found.ancestors}
    assert (own[0].policy_version_id, "forked_from", origin.origin_id) in steps
    label = found.nodes[origin.origin_id].label
    assert label == f"policy version {made[1].policy_version_id}, iteration 1 of run parent in {parent.run_folder}"
    for start in (origin.origin_id, origin.origin_id[:8]):
        assert own[0].policy_version_id in {edge.child_id for edge in lineage(config.run_folder, start).descendants}

    assert forked(parent.run_folder, "other").model.path == str(parent.run_folder / made[2].checkpoint_path)
    with pytest.raises(UserError, match="no policy version 3; there are 0 to 2"):
        forked(parent.run_folder, "other", 3)
    with pytest.raises(UserError, match="child exists; give the fork another name"):
        forked(parent.run_folder, "child", 1)
    with pytest.raises(ConfigError, match=r"model\.path follows from what is forked"):
        forked(parent.run_folder, "other", 1, ["model.path=nano"])
    shutil.rmtree(parent.run_folder / made[1].checkpoint_path)
    with pytest.raises(UserError, match="hf is gone, and with it what policy version 1"):
        forked(parent.run_folder, "other", 1)
