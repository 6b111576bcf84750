"""The Prefect server of a command that was given none. It ends with the process that started it, also when that one was killed.

(Prefect starts one of its own where PREFECT_API_URL is not set, and stops it at exit only: kill -9 leaves it behind.)

As a program, it is that server: ``python -m flows.temporary_server DESCRIPTOR PID``, with a socket that listens already and the
process to end with.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import httpx

from tapo_core.errors import TransientError
from tapo_core.network import check_proxy_for
from tapo_core.text import one_line

_HOST = "127.0.0.1"
_STOP_SECONDS = 10.0  #: that the server may take to end by itself
_WATCH_SECONDS = 1.0  #: between two looks at whether the other process lives

#: What tells Prefect's server that it is a temporary one: no UI, and few background services.
_TEMPORARY = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


@contextmanager
def prefect_server() -> Iterator[None]:
    """Have a Prefect server for the flows that are run in the block: the one at PREFECT_API_URL, or else a temporary one.

    Raises:
        UserError: the server that was named is behind a proxy that cannot be used.
        TransientError: the temporary server did not come up. The message says why.
    """
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
        temporary_settings,
    )

    named = PREFECT_API_URL.value()
    if named or not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        if named:
            check_proxy_for(named)
        yield
        return
    with tempfile.TemporaryFile() as log:
        server, url = _start(log)
        try:
            _wait(server, url, log, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value())
            with temporary_settings({PREFECT_API_URL: url}):
                yield
        finally:
            server.terminate()
            try:
                server.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _start(log: IO[bytes]) -> tuple[subprocess.Popen[bytes], str]:
    """A server that is not ready yet, and the URL of its API. The port is its own from the beginning."""
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.temporary_server", str(listener.fileno()), str(os.getpid())],
            env=os.environ | _TEMPORARY,
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us; until we are done with it, the server has to live
        )
        return server, f"http://{_HOST}:{listener.getsockname()[1]}/api"


def _wait(server: subprocess.Popen[bytes], url: str, log: IO[bytes], seconds: float) -> None:
    """Until the server answers.

    Raises:
        TransientError: it ended, or the time is over.
    """
    end = time.monotonic() + seconds
    with httpx.Client(trust_env=False, timeout=5.0) as client:
        while server.poll() is None:
            try:
                if client.get(f"{url}/health").is_success:
                    return
            except httpx.TransportError:
                pass  # not yet
            if time.monotonic() > end:
                raise TransientError(
                    f"the temporary Prefect server was not ready in {seconds:g} s; give it more "
                    "(PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS), or start one with tapo up and set PREFECT_API_URL"
                )
            time.sleep(0.1)
    log.seek(0)
    told = log.read().decode(errors="replace").strip().splitlines() or ["it printed nothing"]
    raise TransientError(f"the temporary Prefect server ended before it was ready: {one_line(told[-1])}")


def _end_with(pid: int) -> None:
    """End this process, a child of `pid`, when that one has ended: then it is somebody else's child."""
    while os.getppid() == pid:
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_SECONDS)
    os._exit(1)


def main() -> None:
    """Be the server."""
    descriptor, pid = (int(argument) for argument in sys.argv[1:])
    threading.Thread(target=_end_with, args=[pid], daemon=True).start()
    import uvicorn

    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main()
