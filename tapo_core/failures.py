"""Which errors of engines, libraries and the system may pass, so that a stage is worth another attempt."""

import errno
import re
from collections.abc import Iterator

from tapo_core.errors import OutOfMemoryError, StoreLockedError, TransientError
from tapo_core.text import one_line

#: torch raises a plain RuntimeError when a CPU has no memory left, and when CUDA tells of it late.
_says_memory = re.compile(
    r"(?i)out of memory|can't allocate memory|cannot allocate memory|not enough memory|bad_alloc|CUBLAS_STATUS_ALLOC_FAILED"
).search
#: torch and safetensors, whose errors have no number. (torch.save only says that it is not where it should be in its file.)
_says_disk = re.compile(
    r"(?i)no space left on device|disk quota exceeded|PytorchStreamWriter failed writing|inline_container\S* \. unexpected pos"
).search
#: torch.distributed, when a port or another rank was lost.
_says_connection = re.compile(
    r"(?i)address already in use|connection (reset|closed|refused)|broken pipe|NCCL error"
).search

_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
_PASSING = frozenset({errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR})


def as_transient(error: BaseException) -> TransientError | None:
    """An error as one that may pass, with what to do about it; None if it is not of that kind, and would come again.

    Its causes are looked at too: an engine that died may have died of a lack of memory.
    """
    if isinstance(error, StoreLockedError | OutOfMemoryError):
        return error
    causes = list(_causes(error))
    if any(_is_memory(cause) for cause in causes):
        return OutOfMemoryError(f"no memory was left: {_told(error)}")
    if isinstance(error, TransientError):
        return error
    if any(_is_disk(cause) for cause in causes):
        return TransientError(f"the disk is full: {_told(error)}. Make room (tapo gc deletes old checkpoints).")
    if isinstance(error, TimeoutError):
        return TransientError(f"the time was over: {_told(error)}. limits.stage_timeout_minutes sets it.")
    number = error.errno if isinstance(error, OSError) else None
    if number in _PASSING or isinstance(error, ConnectionError) or _is_connection(error):
        return TransientError(_told(error))
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_memory(error: BaseException) -> bool:
    # By its name: torch's own is only there once torch is, which reading a configuration does not need.
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    number = error.errno if isinstance(error, OSError) else None
    return known or number == errno.ENOMEM or (isinstance(error, RuntimeError) and bool(_says_memory(str(error))))


def _is_disk(error: BaseException) -> bool:
    return (error.errno in _DISK) if isinstance(error, OSError) else bool(_says_disk(str(error)))


def _is_connection(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and bool(_says_connection(str(error)))


def _told(error: BaseException) -> str:
    return one_line(error) if str(error) else type(error).__name__
