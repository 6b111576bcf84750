"""The report on an iteration as a Prefect task, so that a retried flow run does not write those again that it has."""

from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.context import TaskRunContext

from tapo_core.iteration_report import iteration_report
from tapo_core.session import Session
from tasks.artifacts import artifact_key
from tasks.options import result_key


def _cache_key(_context: TaskRunContext, parameters: dict[str, Any]) -> str:
    return result_key(parameters["session"], parameters["iteration"], "report", parameters["input_digest"])


@task(
    name="report",
    task_run_name="report {iteration}",
    persist_result=True,
    result_serializer="json",
    cache_policy=CacheKeyFnPolicy(cache_key_fn=_cache_key),
)
def report(session: Session, iteration: int, input_digest: str) -> None:
    """A Markdown artifact about an iteration, under one key a run, so that Prefect shows its history."""
    try:
        text = iteration_report(session, iteration)
    finally:
        session.release_store()
    create_markdown_artifact(
        text, key=artifact_key(session, "iteration"), description=f"Iteration {iteration} of {session.config.run.name}"
    )
