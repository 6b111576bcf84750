"""`make gpu-check`: its script runs, on CPU and small; and says so where there is no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"

#: The script in an environment without vLLM, as a GPU machine may be.
WITHOUT_VLLM = f"""
import importlib.abc, importlib.util, runpy, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "vllm":
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)

find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "vllm" else find(name, package)
sys.meta_path.insert(0, Absent())
sys.argv[0] = {str(SCRIPT)!r}
sys.path.insert(0, {str(SCRIPT.parent)!r})
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


def _run(*words: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    program = [str(SCRIPT)] if code is None else ["-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *program, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_fails() -> None:
    done = _run()
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("with_vllm", [True, False])
def test_the_same_code_runs_on_cpu(tmp_path: Path, with_vllm: bool) -> None:
    file = tmp_path / "found.json"
    words = ("--device", "cpu", "--tiny", "--iterations", "2", "--json", str(file))
    done = _run(*words, code=None if with_vllm else WITHOUT_VLLM)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(file.read_text())
    assert ("vllm" in facts["shaped"]["sampler"]) == with_vllm
    assert len(facts["nano"]["seconds_an_iteration"]) == 2
    assert facts["nano"]["sampler_trainer_mismatch_nats"] < 1e-3
    assert facts["shaped"]["sampler_trainer_mismatch_nats"] < 1e-3
    assert facts["device"]["peak_tflops"] is None
    for part in ("sampling", "scoring", "update"):
        assert facts["shaped"][part]["tokens_a_second"] > 0
    assert facts["shaped"]["update"]["tokens"] == 4 * (8 + 24)
