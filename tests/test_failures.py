"""Which errors may pass. Most are real ones, made by what raises them."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tapo_core.errors import IntegrityError, OutOfMemoryError, StoreLockedError, TransientError, UserError
from tapo_core.failures import as_transient


def raised(action: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of whatever kind it is
        action()
    return caught.value


def caused(outer: Exception, cause: Exception) -> Exception:
    def fail() -> None:
        raise outer from cause

    return raised(fail)


@pytest.mark.parametrize("action", [lambda: bytearray(2**62), lambda: torch.empty(2**50)], ids=["Python", "torch"])
def test_a_lack_of_memory(action: Callable[[], object]) -> None:
    error = raised(action)
    assert isinstance(as_transient(error), OutOfMemoryError)
    assert isinstance(as_transient(caused(TransientError("vLLM died"), error)), OutOfMemoryError), "of that, it died"


def test_a_lack_of_memory_on_a_device_and_of_the_system() -> None:
    assert isinstance(as_transient(torch.OutOfMemoryError("CUDA: tried to allocate 2.00 GiB")), OutOfMemoryError)
    assert isinstance(as_transient(RuntimeError("CUDA error: out of memory")), OutOfMemoryError)
    assert isinstance(as_transient(OSError(errno.ENOMEM, "Cannot allocate memory")), OutOfMemoryError)


WEIGHTS = {"weight": torch.zeros(2**20)}


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"x" * 2**22),
        lambda path: torch.save(WEIGHTS, path),  # an optimizer's state
        lambda path: save_file(WEIGHTS, path),  # a checkpoint
    ],
    ids=["Python", "torch", "safetensors"],
)
def test_a_full_disk(small_disk: Path, write: Callable[[Path], object]) -> None:
    found = as_transient(raised(lambda: write(small_disk / "file")))
    assert type(found) is TransientError
    assert str(found).startswith("the disk is full: ")
    assert "Make room" in str(found)


def test_what_else_may_pass_and_what_does_not() -> None:
    locked = StoreLockedError("held by PID 7")
    assert as_transient(locked) is locked
    assert "limits.stage_timeout_minutes" in str(as_transient(TimeoutError("Scope timed out after 5 second(s)")))
    assert as_transient(ConnectionResetError(errno.ECONNRESET, "reset")) is not None
    assert as_transient(OSError(errno.EIO, "Input/output error")) is not None
    assert as_transient(RuntimeError("The server socket has failed to listen: Address already in use")) is not None
    for error in (
        UserError("update.learning_rat: no such key"),
        IntegrityError("the chain is broken"),
        FileNotFoundError(errno.ENOENT, "No such file"),
        PermissionError(errno.EACCES, "Permission denied"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("out of memory of what was said"),
    ):
        assert as_transient(error) is None, error
