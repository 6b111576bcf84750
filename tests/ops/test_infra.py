"""infra/compose.yaml is not started by any test; that it names what exists is checked."""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows import operations
from flows.repair import POOL

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())["services"]


@pytest.mark.parametrize("service", [name for name in COMPOSE if "build" in COMPOSE[name]])
def test_the_commands_of_the_containers_exist(service: str) -> None:
    build, command = COMPOSE[service]["build"], COMPOSE[service]["command"]
    recipe = (ROOT / "infra" / build["context"] / build["dockerfile"]).resolve()
    for source in re.findall(r"^COPY (\S+)", recipe.read_text(), re.MULTILINE):
        assert (ROOT / source).exists(), source
    if command[0] == "python":
        assert importlib.util.find_spec(command[2]) is not None
        return
    scripts = importlib.metadata.entry_points(group="console_scripts")
    assert command[0] in scripts.names
    words = [word for word in command if not word.startswith("-")]
    shown = subprocess.run(
        [sys.executable, "-m", *words[:3], "--help"], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    for option in (word for word in command if word.startswith("--")):
        assert option in shown, option


def test_the_containers_wait_for_each_other_and_have_what_the_program_needs() -> None:
    for service in COMPOSE.values():
        assert set(service.get("depends_on", [])) <= set(COMPOSE)
    worker = COMPOSE["worker"]
    assert worker["command"][worker["command"].index("--pool") + 1] == POOL
    assert operations.WINDOW.total_seconds() >= 4 * int(worker["environment"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    needed = set(re.findall(r"\{\{ \$(\w+) \}\}", (ROOT / "prefect.yaml").read_text()))
    assert needed
    assert needed <= set(COMPOSE["deploy"]["environment"])
    assert all(port.startswith("127.0.0.1:") for service in COMPOSE.values() for port in service.get("ports", []))


def test_prefect_yaml_deploys_what_up_looks_for() -> None:
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    flows = {}
    for deployment in deployed:
        module, _, function = deployment["entrypoint"].rpartition(".")
        flows[f"{getattr(importlib.import_module(module), function).name}/{deployment['name']}"] = deployment
    assert set(flows) == set(operations.DEPLOYMENTS)
    assert all(deployment["work_pool"]["name"] == POOL for deployment in deployed)
