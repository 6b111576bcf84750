"""What every stage's task has in common, in one table.

* **Key**: run, iteration, stage, configuration digest and input digest. A stage whose result is there under its key is skipped
  when a flow run is retried. The input digest is the chain digest of the commit the stage builds on, so a key never fits
  another run's data, even one of the same name. What Prefect remembers counts only as long as the ledger says the same: the run's
  folder may have been restored from a backup, or rewound.
* **No task run** for a stage that was in the store before the flow run began: a flow run of a schedule, which trains one more
  iteration, costs Prefect the same however long the run is.
* **Result**: a small JSON manifest (ids, digests, counts), never tensors.
* **Retries**: for errors that may pass (`failures.as_transient`), with growing pauses, on engines that are started anew and, when
  memory did not suffice, in smaller micro-batches; other errors fail at once. How often, how long: section [limits].
* **Timeout**: Prefect interrupts Python code; what hangs below it ends with the process, and the flow run is Crashed.
* **No progress**: `tapo_core.watchdog` ends the process, long before the timeout.
"""

import faulthandler
import shlex
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypedDict

from prefect import Task, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext

from tapo_core.errors import OutOfMemoryError, StageGaveUpError, StoreLockedError
from tapo_core.failures import as_transient
from tapo_core.heartbeat import working_on
from tapo_core.session import Session
from tapo_core.store import StageCommit

#: What takes less memory and changes no trajectory.
_SPARING = (
    "update.micro_batch_tokens, update.score_chunk_tokens, sampler.max_num_seqs or sampler.kv_cache_gib (on a GPU "
    "sampler.gpu_memory_utilization), or with update.gradient_checkpointing=true"
)

#: Seconds that a stage may take to end once its time is over.
GRACE = 60.0


class StageResult(TypedDict):
    """What a stage hands to the next one. `digest` is the chain digest of its commit."""

    stage: str
    iteration: int
    digest: str
    manifest: dict[str, Any]


def _result(commit: StageCommit) -> StageResult:
    return StageResult(
        stage=commit.stage, iteration=commit.iteration, digest=commit.chain_digest, manifest=commit.manifest
    )


def made_before(session: Session, stage: str, iteration: int) -> StageCommit | None:
    """The commit of a stage that was made before this flow run began; None if it was not. (One that an earlier attempt of this
    flow run made is a task run of it, and a retry shows it as Cached.)
    """
    listed, context = session.listed(stage, iteration), FlowRunContext.get()
    if listed is None or context is None or context.flow_run is None:
        return None
    began = context.flow_run.start_time
    return listed.commit if began is None or datetime.fromisoformat(listed.committed_at) < began else None


def _may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether the error of a failed attempt is worth another attempt."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, Exception) and as_transient(error) is not None


def _cache_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    return result_key(parameters["session"], parameters["iteration"], context.task.name, parameters["input_digest"])


def result_key(session: Session, iteration: int, what: str, input_digest: str) -> str:
    """Under which Prefect keeps the result of one thing that a run does."""
    return "-".join((session.run_id, str(iteration), what, session.config_digest, input_digest))


def stage_task(
    stage: Callable[[Session, int, str], StageCommit], limits_of: str | None = None
) -> Callable[[Session, int, str], StageResult]:
    """A stage as a Prefect task of the same name, tried as often and as long as the run's limits say.

    `limits_of`: the stage whose limits hold for it, if not its own.

    Raises (when called):
        StageGaveUpError: each attempt met an error that may pass.
    """
    name = stage.__name__
    limited_as = limits_of or name

    def run(session: Session, iteration: int, input_digest: str) -> StageResult:
        if session.listed(name, iteration) is None:
            session.reporter.stage(iteration, name)
        time_is_over = session.config.limits.timeout_seconds(limited_as) + GRACE
        faulthandler.dump_traceback_later(time_is_over, exit=True, file=sys.__stderr__ or sys.stderr)
        try:
            with working_on(f"{name} of iteration {iteration}"):
                commit = stage(session, iteration, input_digest)
        except BaseException as error:  # Prefect's interrupt at a time limit is no Exception
            session.release_store()
            transient = as_transient(error) if isinstance(error, Exception) else None
            if transient is None:
                raise
            if not isinstance(transient, StoreLockedError):
                session.close_engines()
            if isinstance(transient, OutOfMemoryError):
                session.spare_memory()
            if transient is error:
                raise
            raise transient from error
        finally:
            faulthandler.cancel_dump_traceback_later()
        return _result(commit)

    run.__doc__ = stage.__doc__
    as_task = task(
        run,
        name=name,
        task_run_name=f"{name} {{iteration}}",
        persist_result=True,
        result_serializer="json",
        cache_policy=CacheKeyFnPolicy(cache_key_fn=_cache_key),
        retry_condition_fn=_may_pass,
    )

    def begin(session: Session, iteration: int, input_digest: str) -> StageResult:
        session.enter(iteration)
        earlier = made_before(session, name, iteration)
        if earlier is not None and earlier.input_digest == input_digest:
            return _result(earlier)
        limits = session.config.limits
        limited = as_task.with_options(
            retries=limits.retries,
            retry_delay_seconds=limits.pauses,
            timeout_seconds=limits.timeout_seconds(limited_as),
        )
        listed = session.listed(name, iteration)
        try:
            result = limited.with_options(refresh_cache=listed is None)(session, iteration, input_digest)
            if listed is not None and listed.chain_digest != result["digest"]:
                # Remembered from before the run was rewound and went on elsewhere.
                result = limited.with_options(refresh_cache=True)(session, iteration, input_digest)
            return result
        except Exception as error:
            transient = as_transient(error)
            if transient is None:
                raise
            attempts = "1 attempt" if limits.retries == 0 else f"{limits.retries + 1} attempts"
            raise StageGaveUpError(
                f"{name} of iteration {iteration} gave up after {attempts}: {transient}{_advice(transient, session)} "
                "Nothing is lost: retry the flow run, or tapo resume the run; it goes on with this stage."
            ) from error

    return begin


def _advice(error: Exception, session: Session) -> str:
    end = "" if str(error).endswith(".") else "."
    if not isinstance(error, OutOfMemoryError):
        return end
    smaller = f"update.micro_batch_tokens={session.micro_batch_tokens}"  # half of what the last attempt took
    command = shlex.join(["tapo", "resume", str(session.folder), "--set", smaller])
    return (
        f"{end} Give the machine more memory, or go on in the same run with a smaller value of {_SPARING}, "
        f"for example: {command}."
    )
