"""Evaluate one policy version of a run on the held-out queries."""

from prefect import flow

from tapo_core.config import TapoConfig
from tapo_core.errors import UserError
from tasks.artifacts import publish_evaluation
from tasks.evaluate import evaluate
from tasks.options import StageResult
from tasks.resources import open_run


@flow(name="evaluate", flow_run_name="{config.run.name}")
def evaluate_policy(config: TapoConfig, iteration: int | None = None) -> StageResult:
    """Evaluate the policy version that came out of `iteration` (the newest when None, the initial model when 0).

    A version that was evaluated before is not sampled again; its stored result is returned. The table is also an artifact of the
    flow run, key ``evaluation-<run>``.

    Raises:
        UserError: the run has no such policy version.
    """
    with open_run(config) as (session, head):
        newest = session.newest_iteration()
        wanted = newest if iteration is None else iteration
        if not 0 <= wanted <= newest:
            raise UserError(f"{session.folder}: no policy version {wanted}; there are 0 to {newest}")
        updated = session.find_commit("update_policy", wanted)
        result = evaluate(session, wanted, head if updated is None else updated.chain_digest)
        publish_evaluation(session, wanted)
        return result
