"""Runs that died without a word: what Prefect still calls Running, and is not."""

import asyncio
import contextlib
import getpass
from pathlib import Path

import psutil
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed

from tapo_core.holder import Holder
from tapo_core.locks import RUN_LOCK

#: Name of the work pool (prefect.yaml).
POOL = "tapo"

#: Prefect's own variable in the environment of every process that runs a flow run, and of its children.
_FLOW_RUN_ID = "PREFECT__FLOW_RUN_ID"

_PAGE = 200


def processes_of_flow_runs() -> dict[str, list[psutil.Process]]:
    """Flow run id -> this user's processes that work on it."""
    found: dict[str, list[psutil.Process]] = {}
    me = getpass.getuser()
    for process in psutil.process_iter(["username", "status"]):
        if process.info["username"] != me or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        try:
            flow_run_id = process.environ().get(_FLOW_RUN_ID)
        except psutil.Error:
            continue  # it ended meanwhile
        if flow_run_id:
            found.setdefault(flow_run_id, []).append(process)
    return found


def holder_of(processes: list[psutil.Process]) -> Holder | None:
    """How far the process is, of those of one flow run, that works on a TAPO run."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for opened in process.open_files():
                if Path(opened.path).name == RUN_LOCK and (found := Holder.read(Path(opened.path).parent)) is not None:
                    return found
    return None


async def crash_dead_flow_runs(client: PrefectClient, with_pending: bool) -> list[FlowRun]:
    """Mark as Crashed the flow runs of our pool that are called Running and have no process on this machine.

    `with_pending`: also those that a worker took and did not start. Only while there is no worker.
    """
    states = ["RUNNING", "CANCELLING", *(["PENDING"] if with_pending else [])]
    wanted = FlowRunFilter.model_validate({"state": {"type": {"any_": states}}})
    dead = []
    for flow_run in await client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE):
        if flow_run.work_pool_name != POOL or str(flow_run.id) in processes_of_flow_runs():
            continue
        state = Crashed(message="There is no process of this flow run any more. Retry it: it goes on where it stopped.")
        await client.set_flow_run_state(flow_run.id, state, force=True)
        dead.append(flow_run)
    return dead


async def crash_tasks_of_ended_flow_runs(client: PrefectClient) -> int:
    """Mark as Crashed the task runs that are called Running though their flow run has ended. How many there were."""
    ended = FlowRunFilter.model_validate({"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}})
    return await _crash_running_tasks(client, ended)


def crash_stale_tasks(flow_run_id: str) -> int:
    """At the beginning of a flow run: what an earlier attempt of it left Running is Crashed. How many there were."""

    async def crash() -> int:
        async with get_client() as client:
            return await _crash_running_tasks(client, FlowRunFilter.model_validate({"id": {"any_": [flow_run_id]}}))

    return asyncio.run(crash())


async def _crash_running_tasks(client: PrefectClient, of: FlowRunFilter) -> int:
    """Prefect takes a task run's word for it: only `force` moves one whose process died from Running."""
    running = TaskRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING"]}, "name": None}})
    count = 0
    while found := await client.read_task_runs(flow_run_filter=of, task_run_filter=running, limit=_PAGE):
        for task_run in found:
            state = Crashed(message="The process of this task run ended before the task did.")
            await client.set_task_run_state(task_run.id, state, force=True)
        count += len(found)
    return count
