"""A Prefect of the test's own, brought up with `tapo up` on a free port, and taken down after it."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """Below those that Linux gives to whoever asks for any: other tests cannot be given it before it is used."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


class Webhook:
    """Listens on loopback, and keeps what it is sent."""

    def __init__(self) -> None:
        texts: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                texts.append(json.loads(body)["text"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.texts = texts
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True)
class Operated:
    """The folder that `tapo up` is called in, and the server's API."""

    folder: Path
    port: int
    env: dict[str, str]
    webhook: "Webhook"

    @property
    def url(self) -> str:
        """Of the UI."""
        return f"http://127.0.0.1:{self.port}"

    def tapo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from tapo_core.cli.main import main; main()", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=400, check=False
        )

    def request(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Like Prefect's own clients: asked again while the server is busy (SQLite: database is locked) or silent."""
        for _ in range(60):
            try:
                answer = httpx.request(method, f"{self.url}/api/{path}", json=body, timeout=60)
            except httpx.ReadTimeout:
                continue
            if answer.status_code != 503:
                return answer
            time.sleep(1)
        raise AssertionError(f"the server does not answer {method} {path}")

    def call(self, method: str, path: str, body: object = None) -> Any:
        answer = self.request(method, path, body)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"deployments/name/{name}-run/{name}")
        return found

    def start(self, deployment: str, **parameters: object) -> httpx.Response:
        """What the form in the UI does."""
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return self.request("POST", f"deployments/{self.deployment(deployment)['id']}/create_flow_run", body)

    def flow_run(self, flow_run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"flow_runs/{flow_run_id}")
        return found

    def task_runs(self, flow_run_id: str) -> list[tuple[str, str]]:
        wanted = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
        return [(run["name"], run["state_name"]) for run in self.call("POST", "task_runs/filter", wanted)]

    def pid(self, name: str) -> int:
        pid: int = json.loads((self.folder / ".tapo" / f"{name}.json").read_text())["pid"]
        return pid


def wait_until(what: Callable[[], bool], seconds: float, every: float = 0.2) -> None:
    """Ask every so many seconds. `seconds`: a limit against hanging, not a measure."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not so after {seconds} s"
        time.sleep(every)


@contextlib.contextmanager
def brought_up(folder: Path, nano_cache: Path, *options: str, **more: str) -> Iterator[Operated]:
    """A server and a worker with `more` in their environment; `options` of `tapo up`."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TAPO_"))}
    # Of itself the server makes a schedule's flow runs once a minute.
    env = ours | {
        "PYTHONPATH": str(ROOT),
        "TAPO_CACHE": str(nano_cache),
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
    }
    here = Operated(folder, free_port(), env | more, Webhook())
    here.env["TAPO_NOTIFY_URL"] = here.webhook.url
    try:
        done = here.tapo("up", "--port", str(here.port), *options)
        assert done.returncode == 0, done.stderr
        yield here
    finally:
        here.tapo("down")
        here.webhook.close()


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory, nano_cache: Path) -> Iterator[Operated]:
    with brought_up(tmp_path_factory.mktemp("operated"), nano_cache) as here:
        yield here
