"""Evaluate one policy version of a run on the held-out queries."""

from prefect import flow

from tapo_core.config import TapoConfig
from tapo_core.errors import UserError
from tapo_core.ids import digest
from tapo_core.stages.evaluate import evaluations, unevaluated
from tasks.artifacts import publish_evaluation
from tasks.evaluate import evaluate, evaluate_further
from tasks.options import StageResult
from tasks.resources import open_run


@flow(name="evaluate", flow_run_name="{config.run.name}")
def evaluate_policy(config: TapoConfig, iteration: int | None = None) -> StageResult:
    """Evaluate the policy version that came out of `iteration` (the newest when None, the initial model when 0).

    What was evaluated before with the same settings is not sampled again; its stored result is returned. A data set that was
    added, or other settings, make a further evaluation beside it. The table is also an artifact of the flow run, key
    ``evaluation-<run>``.

    Raises:
        UserError: the run has no such policy version.
    """
    with open_run(config, flow=None) as (session, head):
        last = session.newest_iteration()
        wanted = last if iteration is None else iteration
        if not 0 <= wanted <= last:
            raise UserError(f"{session.folder}: no policy version {wanted}; there are 0 to {last}")
        made_by = [session.find_commit(stage, wanted) for stage in ("update_policy", "supervised_fine_tuning")]
        heads = [commit.chain_digest for commit in made_by if commit is not None]
        made_from = heads[0] if heads else head
        evaluate(session, wanted, made_from)
        further = unevaluated(session, wanted)
        if further:
            evaluate_further(session, wanted, digest([made_from, further]))
        newest = evaluations(session, wanted)[-1]
        publish_evaluation(session, wanted)
        return StageResult(stage=newest.stage, iteration=wanted, digest=newest.chain_digest, manifest=newest.manifest)
