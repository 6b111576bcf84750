"""Prefect's log handler, made safe against a library that sets up logging while a flow runs.

`logging.config.dictConfig` and `fileConfig` flush every handler while they hold the lock of the module `logging`. The flush of
Prefect's `APILogHandler` then waits for the lock of Prefect's services. Another thread may hold that one while it asks for a
logger, which takes the lock of `logging`: both wait for ever. The flush also waits for the thread that sends the records, whose
HTTP client logs.
"""

import logging

from prefect.logging.handlers import APILogHandler

_flush = APILogHandler.flush


def _flush_unless_logging_is_locked(handler: APILogHandler) -> None:
    """Wait until the records are sent, but not while this thread keeps all others from logging.

    No record is lost: all stay in the queue of the thread that sends them, which empties it by itself, at the latest when the
    process ends.
    """
    if not logging._lock._is_owned():  # type: ignore[attr-defined]
        _flush(handler)


def make_flush_safe() -> None:
    """Put it in place, for every handler there is and will be. A second call changes nothing."""
    APILogHandler.flush = _flush_unless_logging_is_locked
