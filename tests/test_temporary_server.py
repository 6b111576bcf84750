"""The Prefect server of `tapo train`: behind no proxy, and gone when its process is, also by kill -9."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
HOLDS = """
from flows.temporary_server import prefect_server
from prefect import flow, task

@task
def one():
    return 1

@flow
def adds():
    return one() + one()

with prefect_server():
    print(adds(), flush=True)
    input()
"""


@pytest.mark.timeout(300)
def test_it_is_reached_past_proxies_and_ends_with_its_process(tmp_path: Path) -> None:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env = ours | {
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "200",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "socks4://127.0.0.1:9",
        "NO_PROXY": "localhost",
    }
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "2\n"
        (server,) = psutil.Process(holder.pid).children()
        assert "flows.temporary_server" in server.cmdline()
        (listening,) = (c.laddr for c in server.net_connections() if c.status == psutil.CONN_LISTEN)
        assert listening.ip == "127.0.0.1"
        holder.send_signal(signal.SIGKILL)
    server.wait(60)  # raises when it lives on
