"""Evaluate one policy version of a run on the held-out queries."""

from prefect import flow

from tapo_core.config import TapoConfig
from tapo_core.errors import UserError
from tapo_core.records import PolicyVersion
from tapo_core.store import load
from tasks.evaluate import evaluate
from tasks.options import StageResult
from tasks.resources import open_run


@flow(name="evaluate", flow_run_name="{config.run.name}")
def evaluate_policy(config: TapoConfig, iteration: int | None = None) -> StageResult:
    """Evaluate the policy version that came out of `iteration` (the newest when None, the initial model when 0).

    A version that was evaluated before is not sampled again; its stored result is returned.

    Raises:
        UserError: the run has no such policy version.
    """
    with open_run(config) as (session, head):
        versions = {v.iteration: v for v in load(session.folder, PolicyVersion, run_id=session.run_id)}
        wanted = max(versions) if iteration is None else iteration
        if wanted not in versions:
            raise UserError(f"{session.folder}: no policy version {wanted}; there are 0 to {max(versions)}")
        updated = session.store.stage(session.run_id, wanted, "update_policy")
        return evaluate(session, wanted, head if updated is None else updated.chain_digest)
