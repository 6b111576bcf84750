"""`tapo up` where it is not alone: with proxies, behind a reverse proxy, for months, and restarted under flow runs that live."""

import json
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest

from flows.repair import processes_of_flow_runs
from tests.ops.conftest import Operated, brought_up, wait_until
from tests.ops.operating import wait_for_state

LIMIT = "v2/concurrency_limits"


class ReverseProxy:
    """Has a server below a path, as nginx has it: the UI with its path, the API without."""

    def __init__(self) -> None:
        self.to = ""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.replace("/lab/api/", "/api/", 1)
                answer = httpx.get(f"{proxy.to}{path}", headers={"Accept": self.headers["Accept"]}, trust_env=False)
                self.send_response(answer.status_code)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/lab"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", headers={"Accept": "text/html"}, trust_env=False, timeout=60)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def proxy() -> Iterator[ReverseProxy]:
    proxy = ReverseProxy()
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def surrounded(tmp_path_factory: pytest.TempPathFactory, nano_cache: Path, proxy: ReverseProxy) -> Iterator[Operated]:
    dead = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks4://127.0.0.1:9", "NO_PROXY": "localhost"}
    ui = {"PREFECT_UI_API_URL": f"{proxy.url}/api", "PREFECT_UI_SERVE_BASE": "/lab"}
    often = {"PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "10"}
    folder = tmp_path_factory.mktemp("surrounded")
    with brought_up(folder, nano_cache, "--keep-days", "2", **dead, **ui, **often) as here:
        proxy.to = here.url
        yield here


def test_the_ui_is_where_the_user_says(surrounded: Operated, proxy: ReverseProxy) -> None:
    shown = proxy.get("/ui-settings").json()
    assert (shown["api_url"], shown["v1_base_url"]) == (f"{proxy.url}/api", "/lab")
    page = proxy.get("/").text
    (script,) = (part.split('"')[0] for part in page.split('src="/lab')[1:2])
    assert proxy.get(script).status_code == 200, "the page's own files are below the path too"
    assert httpx.get(f"{shown['api_url']}/health", trust_env=False).json() is True
    status = surrounded.tapo("status")
    assert status.returncode == 0, status.stdout + status.stderr
    assert f"UI          {proxy.url}  (" in status.stdout
    elsewhere = dict(surrounded.env, PREFECT_UI_API_URL="http://127.0.0.1:9999/api")
    other = Operated(surrounded.folder, surrounded.port, elsewhere, surrounded.webhook).tapo("up")
    assert other.returncode == 2
    assert "tapo down, then tapo up" in other.stderr


def test_worker_flow_run_and_webhook_are_reached_past_the_proxies(surrounded: Operated, proxy: ReverseProxy) -> None:
    flow_run_id = surrounded.start("train", name="told", overrides=['run.iteration="two"']).json()["id"]
    wait_until(lambda: bool(surrounded.webhook.texts), 300)
    (text,) = surrounded.webhook.texts
    assert f"{proxy.url}/runs/flow-run/{flow_run_id}" in text


def test_what_was_typed_as_json_is_read_in_a_scheduled_flow_run(surrounded: Operated) -> None:
    typed = {"__prefect_kind": "json", "value": json.dumps(['run.iteration="two"'])}
    deployment = surrounded.deployment("train")["id"]
    soon = {"interval": 3600, "anchor_date": (datetime.now(UTC) + timedelta(seconds=5)).isoformat()}
    body = [{"active": True, "schedule": soon, "parameters": {"name": "typed", "overrides": typed}}]
    (schedule,) = surrounded.call("POST", f"deployments/{deployment}/schedules", body)
    wanted = {"flow_runs": {"state": {"type": {"any_": ["FAILED"]}}, "name": {"any_": ["typed"]}}}
    wait_until(lambda: bool(surrounded.call("POST", "flow_runs/filter", wanted)), 300)
    (flow_run,) = surrounded.call("POST", "flow_runs/filter", wanted)
    assert "unknown key run.iteration" in flow_run["state"]["message"], "the override was read"
    assert surrounded.request("DELETE", f"deployments/{deployment}/schedules/{schedule['id']}").status_code == 204


def test_old_flow_runs_are_deleted_and_only_these(surrounded: Operated) -> None:
    def ended() -> str:
        deployment = surrounded.deployment("evaluate")["id"]
        flow_run_id: str = surrounded.call("POST", f"deployments/{deployment}/create_flow_run", {})["id"]
        state = {"type": "COMPLETED"}
        surrounded.call("POST", f"flow_runs/{flow_run_id}/set_state", {"state": state, "force": True})
        return flow_run_id

    old, young = ended(), ended()
    with closing(sqlite3.connect(surrounded.folder / ".tapo" / "prefect.db", timeout=60)) as database, database:
        database.execute(
            "UPDATE flow_run SET start_time = datetime('now', '-3 days'), end_time = datetime('now', '-3 days') WHERE id = ?",
            [old],
        )
    wait_until(lambda: surrounded.request("GET", f"flow_runs/{old}").status_code == 404, 300)
    assert surrounded.flow_run(young)["state"]["type"] == "COMPLETED"


def test_a_restarted_server_knows_who_holds_a_place(surrounded: Operated) -> None:
    surrounded.call("POST", f"{LIMIT}/", {"name": "places", "limit": 1})
    wanted = {"names": ["places"], "slots": 1, "lease_duration": 60}
    lease = surrounded.call("POST", f"{LIMIT}/increment-with-lease", wanted)["lease_id"]
    server = psutil.Process(surrounded.pid("server"))
    os.kill(server.pid, signal.SIGKILL)
    server.wait(60)
    # As if it had been away for longer than the lease.
    file = surrounded.folder / ".tapo" / "prefect" / "concurrency_leases" / "expirations.json"
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    file.write_text(json.dumps({**json.loads(file.read_text()), lease: past}))
    again = surrounded.tapo("up")
    assert again.returncode == 0, again.stderr
    renewed = surrounded.request("POST", f"{LIMIT}/leases/{lease}/renew", {"lease_duration": 60})
    assert renewed.status_code == 204, renewed.text


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_cancel_ends_a_flow_run_whose_worker_died(surrounded: Operated) -> None:
    """Before its first stage, too: this one builds its model, which takes minutes."""
    flow_run_id = surrounded.start("train", name="cancelled", overrides=["nano.seed=77"]).json()["id"]
    wait_for_state(surrounded, flow_run_id, "Running")
    worker = psutil.Process(surrounded.pid("worker"))
    worker.kill()
    worker.wait(60)
    assert surrounded.tapo("up").returncode == 0
    state = {"type": "CANCELLING"}
    surrounded.call("POST", f"flow_runs/{flow_run_id}/set_state", {"state": state})
    wait_for_state(surrounded, flow_run_id, "Cancelled")
    wait_until(lambda: flow_run_id not in processes_of_flow_runs(), 300)
    assert surrounded.flow_run(flow_run_id)["state"]["name"] == "Cancelled", "and not Crashed"
