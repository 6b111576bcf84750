"""The report on an iteration as a Prefect task, so that a retried flow run does not write those again that it has."""

from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.context import TaskRunContext

from tapo_core.iteration_report import iteration_report
from tapo_core.session import Session
from tapo_core.viewer.report import write_report
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
    """A Markdown artifact about an iteration, under one key a run, so that Prefect shows its history.

    With the last iteration comes the report on the run as a file, which the artifact names.
    """
    try:
        text = iteration_report(session, iteration)
    finally:
        session.release_store()
    if iteration == session.config.run.iterations:
        write_report(session.folder)
    create_markdown_artifact(
        text, key=artifact_key(session, "iteration"), description=f"Iteration {iteration} of {session.config.run.name}"
    )
