"""`tapo up`, `status` and `down` with a real server and a real worker, and the forms of the deployments."""

import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from flows.operations import AUTOMATION, NOTIFICATION
from tests.ops.conftest import Operated, wait_until

FORMS = {
    "train": ["preset", "name", "iterations", "more", "seed", "overrides"],
    "evaluate": ["preset", "name", "policy_version", "seed", "overrides"],
    "cold-start": ["preset", "name", "seed", "overrides"],
}


def test_a_second_up_changes_nothing_and_repairs_what_died(operated: Operated) -> None:
    status = operated.tapo("status")
    assert status.returncode == 0, status.stdout + status.stderr
    assert operated.url in status.stdout
    server, worker = operated.pid("server"), operated.pid("worker")
    updated = operated.deployment("train")["updated"]
    again = operated.tapo("up")
    assert again.returncode == 0, again.stderr
    assert "started" not in again.stdout
    assert (server, worker) == (operated.pid("server"), operated.pid("worker"))
    assert operated.deployment("train")["updated"] == updated

    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(worker), 300)
    status = operated.tapo("status")
    assert status.returncode == 1
    assert "worker      not running" in status.stdout
    repaired = operated.tapo("up")
    assert repaired.returncode == 0, repaired.stderr
    assert server == operated.pid("server")
    assert psutil.pid_exists(operated.pid("worker"))


def test_another_port_or_a_pid_of_somebody_else_is_not_taken_for_ours(operated: Operated, tmp_path: Path) -> None:
    other = operated.tapo("up", "--port", "4999")
    assert other.returncode == 2
    assert f"the server runs on port {operated.port} already" in other.stderr
    elsewhere = Operated(tmp_path, operated.port, operated.env, operated.webhook)
    nothing = elsewhere.tapo("status")
    assert nothing.returncode == 2
    assert "nothing was ever started" in nothing.stderr
    taken = elsewhere.tapo("up", "--port", str(operated.port))
    assert taken.returncode == 2
    assert f"port {operated.port} is taken by PID {operated.pid('server')}" in taken.stderr
    # A record whose PID lives, but is another process by now.
    state = tmp_path / ".tapo"
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        ours.listen()
        port = ours.getsockname()[1]
        record = f'{{"pid": {os.getpid()}, "started": 1.0, "port": {port}, "database": "SQLite", "auth": false}}'
        (state / "server.json").write_text(record)
        (state / "worker.json").write_text(record)
        assert elsewhere.tapo("status").returncode == 1
        assert elsewhere.tapo("down").returncode == 0, "and this test is still there"
        again = elsewhere.tapo("up")
        assert again.returncode == 2
        assert f"port {port} is taken by PID {os.getpid()}" in again.stderr


@pytest.mark.parametrize("name", FORMS)
def test_the_form_of_a_deployment(operated: Operated, name: str) -> None:
    deployment = operated.deployment(name)
    schema = deployment["parameter_openapi_schema"]
    fields = sorted(schema["properties"], key=lambda field: schema["properties"][field]["position"])
    assert fields == FORMS[name]
    assert schema.get("required", []) == [], "every field has a default"
    for field, shown in schema["properties"].items():
        assert shown["title"] != field, "a title for people"
        assert len(shown["description"]) > 10
        assert "default" in shown
    assert schema["properties"]["preset"]["default"] in schema["properties"]["preset"]["enum"]
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"


@pytest.mark.parametrize(
    ("deployment", "bad", "says"),
    [
        ("train", {"preset": "nano-tap"}, "is not one of"),
        ("train", {"iterations": 0}, "less than the minimum"),
        ("train", {"more": "many"}, "'more'"),
        ("train", {"seed": 2**31}, "greater than the maximum"),
        ("train", {"name": "../x"}, "'name'"),
        ("train", {"overrides": ["update.learning_rate"]}, "does not match"),
        ("evaluate", {"policy_version": -1}, "less than the minimum"),
        ("cold-start", {"preset": "nano-tapo"}, "is not one of"),
    ],
)
def test_a_bad_value_starts_nothing(operated: Operated, deployment: str, bad: dict[str, object], says: str) -> None:
    answer = operated.start(deployment, **bad)
    assert answer.status_code == 409, answer.text
    assert says in answer.text
    assert operated.call("POST", "flow_runs/count", {}) == 0


def test_dead_runs_are_looked_for_and_live_ones_have_time(operated: Operated) -> None:
    automations = {automation["name"]: automation for automation in operated.call("POST", "automations/filter", {})}
    assert set(automations) == {AUTOMATION, NOTIFICATION}
    automation = automations[AUTOMATION]
    trigger = automation["trigger"]
    assert automation["enabled"]
    assert (trigger["posture"], trigger["for_each"]) == ("Proactive", ["prefect.resource.id"])
    assert trigger["after"] == ["prefect.flow-run.heartbeat"]
    assert set(trigger["expect"]) >= {"prefect.flow-run.heartbeat", "prefect.flow-run.Completed"}
    environment = psutil.Process(operated.pid("worker")).environ()
    assert trigger["within"] >= max(120, 4 * int(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]))
    assert [action["state"] for action in automation["actions"]] == ["CRASHED"]


def test_a_flow_run_that_fails_is_told_to_the_webhook(operated: Operated) -> None:
    flow_run_id = operated.start("train", name="told", overrides=['run.iteration="two"']).json()["id"]
    wait_until(lambda: operated.flow_run(flow_run_id)["state"]["type"] == "FAILED", 300)
    wait_until(lambda: bool(operated.webhook.texts), 300)
    (text,) = operated.webhook.texts
    assert text.startswith(f"Flow run told ({flow_run_id}) is Failed: ")
    assert "run.iteration" in text, "the message names the key"
    assert f"/runs/flow-run/{flow_run_id}" in text, "and a link to the page"
    assert not (operated.folder / "runs").exists()


def test_a_schedule_makes_flow_runs_with_its_parameters(operated: Operated) -> None:
    deployment = operated.deployment("train")["id"]
    far = {"interval": 3600, "anchor_date": "2100-01-01T00:30:00Z"}
    body = [{"active": True, "schedule": far, "parameters": {"name": "scheduled", "more": 2}}]
    (schedule,) = operated.call("POST", f"deployments/{deployment}/schedules", body)
    try:
        scheduled = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
        wait_until(lambda: bool(operated.call("POST", "flow_runs/filter", scheduled)), 300)
        found = operated.call("POST", "flow_runs/filter", scheduled)
        assert {(run["parameters"]["name"], run["parameters"]["more"]) for run in found} == {("scheduled", 2)}
    finally:
        assert operated.request("DELETE", f"deployments/{deployment}/schedules/{schedule['id']}").status_code == 204


def test_all_of_it_listens_on_loopback_and_ends_with_down(operated: Operated) -> None:
    pids = [operated.pid(name) for name in ("server", "worker")]
    ports = [c.laddr for pid in pids for c in psutil.Process(pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert ("127.0.0.1", operated.port) in ports
    assert {address for address, _ in ports} == {"127.0.0.1"}
    done = operated.tapo("down")
    assert done.returncode == 0, done.stderr
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert operated.tapo("status").returncode == 1
    assert operated.tapo("down").returncode == 0
