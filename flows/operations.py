"""What `tapo up`, `status` and `down` do: a Prefect server, a work pool, deployments, a worker, and the watch over dead runs.

`settings` must be in the environment before this module, and with it Prefect, is imported.
"""

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.events import AutomationCore, EventTrigger, Posture
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.exceptions import ObjectNotFound
from prefect.types import SecretDict
from pydantic import SecretStr

from flows.repair import (
    POOL,
    crash_dead_flow_runs,
    crash_tasks_of_ended_flow_runs,
    holder_of,
    processes_of_flow_runs,
)
from tapo_core.errors import TransientError
from tapo_core.text import one_line

ROOT = Path(__file__).resolve().parents[1]
DEPLOYMENTS = ("train-run/train", "evaluate-run/evaluate", "cold-start-run/cold-start")
AUTOMATION = "Crash flow runs without heartbeat"
NOTIFICATION = "Tell the webhook of flow runs that failed or crashed"

#: What the webhook is sent, as Slack, Mattermost and others take it. Prefect fills it in.
MESSAGE = (
    '{"text": {{ ("Flow run " ~ flow_run.name ~ " (" ~ flow_run.id ~ ") is " ~ flow_run.state.name ~ ": "'
    ' ~ (flow_run.state.message or "") ~ " " ~ (flow_run|ui_url or "")) | tojson }}}'
)

#: Six heartbeats (see `tapo_core.cli.operations`). A machine that is busy with training delays one or two.
WINDOW = timedelta(seconds=180)

#: For how long Prefect lets a flow run have its place among those of its deployment, unless it asks again.
LEASE = timedelta(seconds=300)

_ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling")
_PAGE = 200


@contextlib.asynccontextmanager
async def _server() -> AsyncIterator[PrefectClient]:
    """A client of the server; what goes wrong on the way there, or there, as one line.

    Raises:
        TransientError: the server does not answer, or refuses.
    """
    try:
        async with get_client() as client:
            yield client
    except httpx.HTTPError as error:
        raise TransientError(f"the Prefect server: {one_line(error)}; its log says more (tapo status)") from error


def watch() -> AutomationCore:
    """A flow run that has sent a heartbeat, and then neither another nor its end for `WINDOW`, has crashed."""
    heartbeat = "prefect.flow-run.heartbeat"
    return AutomationCore(
        name=AUTOMATION,
        description="A flow run that sends no heartbeat any more died together with its worker.",
        trigger=EventTrigger(
            after={heartbeat},
            expect={heartbeat, *(f"prefect.flow-run.{end}" for end in _ENDS)},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=WINDOW,
        ),
        actions=[
            ChangeFlowRunState(
                state="CRASHED", message=f"No heartbeat for {WINDOW.seconds} s. Retry it: it goes on where it stopped."
            )
        ],
    )


async def _notify(client: PrefectClient, url: str) -> bool:
    """Send each failure to a webhook from now on. Whether that is new; another URL takes the place of the one before."""
    block = Webhook(method="POST", url=SecretStr(url), headers=SecretDict({"Content-Type": "application/json"}))
    block_id = await block.asave("tapo-failures", overwrite=True, client=client)
    if await client.read_automations_by_name(NOTIFICATION):
        return False
    trigger = EventTrigger(
        expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    )
    action = CallWebhook(block_document_id=block_id, payload=MESSAGE)
    await client.create_automation(AutomationCore(name=NOTIFICATION, trigger=trigger, actions=[action]))
    return True


def after_absence() -> None:
    """Before a server starts on a database that one ran on before: while it was away it heard nothing, and that must not be
    counted against flow runs that live on. Their next heartbeat begins a new count, and each keeps its place among the flow runs
    of its deployment for `LEASE`, in which it asks for it again.
    """
    import sqlalchemy as sa
    from prefect.server.concurrency.lease_storage import get_concurrency_lease_storage
    from prefect.server.database import provide_database_interface

    async def forget() -> None:
        db = provide_database_interface()
        async with db.session_context(begin_transaction=True) as session:
            await session.execute(sa.delete(db.AutomationBucket))
        await (await db.engine()).dispose()
        leases = get_concurrency_lease_storage()
        expired = await leases.read_expired_lease_ids(limit=_PAGE)
        for lease_id in [*expired, *await leases.read_active_lease_ids(limit=_PAGE)]:
            await leases.renew_lease(lease_id, LEASE)

    asyncio.run(forget())


def prepare_server(env: Mapping[str, str], version: str, log: Path, webhook: str | None = None) -> list[str]:
    """Bring pool, deployments and automations up to date. What was done, in words; most often nothing.

    `webhook`: the URL that is told of failures; None leaves that as it is.

    Raises:
        TransientError: the deployments cannot be made; the log says why.
    """

    async def prepare() -> list[str]:
        done = []
        async with _server() as client:
            try:
                await client.read_work_pool(POOL)
            except ObjectNotFound:
                from prefect.workers.process import ProcessWorker  # imports most of Prefect

                template = ProcessWorker.get_default_base_job_template()
                await client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
                done.append(f"work pool {POOL} made")
            if {await _version(client, name) for name in DEPLOYMENTS} != {version}:
                _deploy(env, log)
                done.append("deployments made: train, evaluate, cold-start")
            if not await client.read_automations_by_name(AUTOMATION):
                await client.create_automation(watch())
                done.append(f"automation made: {AUTOMATION}")
            if webhook is not None and await _notify(client, webhook):
                done.append(f"automation made: {NOTIFICATION}")
        return done

    return asyncio.run(prepare())


def repair(worker_runs: bool) -> list[str]:
    """Mark as Crashed what is called Running and is not: flow runs without a process, tasks of flow runs that ended."""

    async def run() -> list[str]:
        async with _server() as client:
            dead = await crash_dead_flow_runs(client, with_pending=not worker_runs)
            tasks = await crash_tasks_of_ended_flow_runs(client)
        done = [f"flow run {flow_run.name} had no process any more: Crashed; retry it" for flow_run in dead]
        return [*done, f"{tasks} task runs of flow runs that had ended: Crashed"] if tasks else done

    return asyncio.run(run())


async def _version(client: PrefectClient, name: str) -> str | None:
    try:
        deployment = await client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None
    version: str | None = deployment.version
    return version


def _deploy(env: Mapping[str, str], log: Path) -> None:
    with log.open("ab") as output:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
            cwd=ROOT,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
        )
    if done.returncode != 0:
        raise TransientError(f"the deployments could not be made; {log} says why")


class Seen:
    """What the server says, for `tapo status`."""

    def __init__(self) -> None:
        """Ask it."""
        asyncio.run(self._ask())

    async def _ask(self) -> None:
        async with _server() as client:
            self.deployments = [name for name in DEPLOYMENTS if await _version(client, name) is not None]
            found = await client.read_automations_by_name(AUTOMATION)
            self.watched = any(automation.enabled for automation in found)
            states = ["RUNNING", "CANCELLING", "PENDING", "SCHEDULED"]
            wanted = FlowRunFilter.model_validate({"state": {"type": {"any_": states}}})
            flow_runs = [
                flow_run
                for flow_run in await client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE)
                if flow_run.work_pool_name == POOL
            ]
        alive = processes_of_flow_runs()
        self.running: list[FlowRun] = [r for r in flow_runs if r.state_type != "SCHEDULED" and str(r.id) in alive]
        #: How far the running ones are, by flow run; those that have just begun are missing.
        self.holders = {run.id: found for run in self.running if (found := holder_of(alive[str(run.id)])) is not None}
        self.dead = [r for r in flow_runs if r.state_type in ("RUNNING", "CANCELLING") and str(r.id) not in alive]
        self.waiting = [r for r in flow_runs if r.state_type in ("SCHEDULED", "PENDING") and r not in self.running]


def flow_run_processes(api_url: str) -> list[psutil.Process]:
    """The processes that work on the flow runs of one server."""
    found = []
    for process in itertools.chain.from_iterable(processes_of_flow_runs().values()):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.environ().get("PREFECT_API_URL") == api_url:
                found.append(process)
    return found


def main() -> None:
    """In a container: pool, deployments and automation on the server at PREFECT_API_URL (infra/compose.yaml)."""
    version, webhook = os.environ["TAPO_DEPLOYMENT_VERSION"], os.environ.get("TAPO_NOTIFY_URL")
    for line in prepare_server(os.environ, version, Path("/dev/stderr"), webhook or None):
        print(line)


if __name__ == "__main__":
    main()
