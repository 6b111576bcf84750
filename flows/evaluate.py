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
    with open_run(config, flow=None) as (session, head):
        newest = session.newest_iteration()
        wanted = newest if iteration is None else iteration
        if not 0 <= wanted <= newest:
            raise UserError(f"{session.folder}: no policy version {wanted}; there are 0 to {newest}")
        made_by = [session.find_commit(stage, wanted) for stage in ("update_policy", "supervised_fine_tuning")]
        heads = [commit.chain_digest for commit in made_by if commit is not None]
        result = evaluate(session, wanted, heads[0] if heads else head)
        publish_evaluation(session, wanted)
        return result
