"""Cancel from the UI, also when no worker hears it: one that was started anew does not know the flow runs of the one before, and
one whose server was started anew has stopped to listen. So a flow run looks itself whether it is to end.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.states import Cancelled

_log = logging.getLogger("tapo_core.cancelling")  # of the loggers that `tapo up` has Prefect show

#: Seconds between two looks. The second that finds it Cancelling acts: a worker that hears it is quicker.
LOOK = 10.0

#: Seconds that the process may take to end in good order.
_END = 60.0


@contextmanager
def obeying_cancel(flow_run_id: str) -> Iterator[None]:
    """End this process, which works on a flow run in the block, when that is cancelled and nobody else ends it."""
    over = threading.Event()
    arguments = (UUID(flow_run_id), over, copy_context())
    threading.Thread(target=_watch, args=arguments, daemon=True, name="obeying-cancel").start()
    try:
        yield
    finally:
        over.set()


def _watch(flow_run_id: UUID, over: threading.Event, context: Context) -> None:
    """`context`: of the flow run, for its log."""
    times = 0
    with get_client(sync_client=True) as client:
        while not over.wait(LOOK):
            try:
                state = client.read_flow_run(flow_run_id).state
                times = times + 1 if state is not None and state.is_cancelling() else 0
                if times < 2:
                    continue
                message = (
                    "Cancelled. No worker ended the flow run, so it ended itself; a retry goes on where it stopped."
                )
                client.set_flow_run_state(flow_run_id, Cancelled(message=message), force=True)
            except httpx.HTTPError:
                continue  # the server is away; look again
            break
        else:
            return
    context.run(_log.warning, "the flow run was cancelled, and no worker has ended it: it ends itself")
    os.environ["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] = "reschedule"  # Prefect is not to call it Crashed then
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_END)
    os._exit(1)
