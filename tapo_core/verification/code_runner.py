"""The child process that runs one program: it reads the program, locks itself in, and only then looks at it.

Started by `tapo_core.verification.code` with ``-S``, and it imports as little as it can: a child is started for each test.
"""

import builtins
import ctypes
import importlib
import os
import signal
import sys
import threading
import types

from tapo_core.verification.sandbox import SandboxError, confine, cpu_limit

READY = b"ready"
EXIT_MEMORY = 86  # a program may end with it too: it gets the same verdict, unknown

#: What a program may import: it is imported before the process is confined, if its name is in the program's text.
MODULES = """
    __future__ _strptime abc array base64 binascii bisect calendar cmath collections collections.abc contextlib copy
    dataclasses datetime decimal enum fractions functools hashlib heapq io itertools json math numbers operator os os.path
    queue random re secrets statistics string struct sys textwrap threading time traceback types typing unicodedata zlib
"""


def main() -> None:
    """Run the program of an open file: ``argv`` is its descriptor, one for our own report, seconds and bytes."""
    program, report, seconds, memory = map(int, sys.argv[-4:])
    with os.fdopen(program, "rb") as file:
        source = file.read()
    try:
        _end_with_parent()
        for module in MODULES.split():
            if module.strip("_").encode() in source:
                importlib.import_module(module)
        cpu_limit(seconds, final=True)
        confine(memory)
        sys.path.clear()
    except SandboxError as error:
        os.write(report, str(error).encode())
        sys.exit(1)
    os.write(report, READY)
    os.close(report)
    _run(source)


def _end_with_parent() -> None:
    """Ask to be killed when the thread that started this process ends: a program that sleeps would live for ever."""
    if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0) != 0:  # PR_SET_PDEATHSIG
        raise SandboxError(f"no death signal can be set: {os.strerror(ctypes.get_errno())}")


def _run(source: bytes) -> None:
    """As ``python program.py`` would, but for memory: that it ran out is told by the exit status."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    for name in ("exit", "quit"):  # ``-S`` leaves them out
        setattr(builtins, name, sys.exit)
    threading.excepthook = _thread_failed
    try:
        exec(compile(source, "program.py", "exec", dont_inherit=True), module.__dict__)  # noqa: S102
    except Exception as error:
        if _is_memory(error):
            os._exit(EXIT_MEMORY)
        raise


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    if _is_memory(failure.exc_value):
        os._exit(EXIT_MEMORY)
    threading.__excepthook__(failure)


def _is_memory(error: BaseException | None) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "can't start new thread" in str(error)
    )
