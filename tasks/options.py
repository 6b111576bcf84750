"""What every stage's task has in common, in one table.

* **Key**: run, iteration, stage, configuration digest and input digest. A stage whose result is there under its key is skipped
  when a flow run is retried. The input digest is the chain digest of the commit the stage builds on, so a key never fits
  another run's data, even one of the same name. A stage that the store does not have is never taken from Prefect, which may
  remember it from before the run's folder was restored from a backup.
* **Result**: a small JSON manifest (ids, digests, counts), never tensors.
* **Retries**: only for errors that may pass (`TransientError`); bad input or a contradiction fails at once.
"""

from collections.abc import Callable
from typing import Any, TypedDict

from prefect import Task, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext

from tapo_core.errors import TransientError
from tapo_core.session import Session
from tapo_core.store import StageCommit

RETRIES = 2
RETRY_DELAY_SECONDS = (2.0, 10.0)


class StageResult(TypedDict):
    """What a stage hands to the next one. `digest` is the chain digest of its commit."""

    stage: str
    iteration: int
    digest: str
    manifest: dict[str, Any]


def _may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether the error of a failed attempt is worth another attempt."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


def _cache_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    return result_key(parameters["session"], parameters["iteration"], context.task.name, parameters["input_digest"])


def result_key(session: Session, iteration: int, what: str, input_digest: str) -> str:
    """Under which Prefect keeps the result of one thing that a run does."""
    return "-".join((session.run_id, str(iteration), what, session.config_digest, input_digest))


def stage_task(stage: Callable[[Session, int, str], StageCommit]) -> Callable[[Session, int, str], StageResult]:
    """A function that runs a stage as a Prefect task of the same name."""

    def run(session: Session, iteration: int, input_digest: str) -> StageResult:
        if not session.is_done(stage.__name__, iteration):
            session.reporter.stage(iteration, stage.__name__)
        try:
            commit = stage(session, iteration, input_digest)
        finally:
            session.release_store()
        return StageResult(
            stage=commit.stage, iteration=commit.iteration, digest=commit.chain_digest, manifest=commit.manifest
        )

    run.__doc__ = stage.__doc__
    made = task(
        run,
        name=stage.__name__,
        task_run_name=f"{stage.__name__} {{iteration}}",
        persist_result=True,
        result_serializer="json",
        cache_policy=CacheKeyFnPolicy(cache_key_fn=_cache_key),
        retries=RETRIES,
        retry_delay_seconds=list(RETRY_DELAY_SECONDS),
        retry_condition_fn=_may_pass,
    )

    def call(session: Session, iteration: int, input_digest: str) -> StageResult:
        known = session.is_done(stage.__name__, iteration)
        return made.with_options(refresh_cache=not known)(session, iteration, input_digest)

    return call
