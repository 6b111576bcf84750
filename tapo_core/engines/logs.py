"""The loggers of the engines. This is the one place that sets their levels; what they log is printed by the root logger.

By itself vLLM sets up logging when it is imported, with `logging.config.dictConfig`, which flushes and forgets every handler of
the process; `prepare_environment` forbids that. Ray takes its level from `ray.init`, transformers from TRANSFORMERS_VERBOSITY.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

#: vLLM's own variable: whether it sets up logging when it is imported.
CONFIGURE = "VLLM_CONFIGURE_LOGGING"


def set_up_loggers() -> None:
    """Call it again after an engine was imported: DeepSpeed and OpenRLHF give their loggers handlers then."""
    levels = {
        "vllm": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR").upper(),
        "DeepSpeed": "WARNING",
        "openrlhf": "WARNING",
    }
    for name, level in levels.items():
        for logger in _with_handlers(name):
            logger.handlers.clear()
            logger.setLevel(logging.NOTSET)
            logger.propagate = True
        logging.getLogger(name).setLevel(level)


def _with_handlers(name: str) -> list[logging.Logger]:
    """The logger of a name, and those below it, as far as they have handlers of their own."""
    known = list(logging.root.manager.loggerDict.items())
    named = [logger for key, logger in known if key == name or key.startswith(f"{name}.")]
    return [logger for logger in named if isinstance(logger, logging.Logger) and logger.handlers]


@contextmanager
def logging_in_new_processes() -> Iterator[None]:
    """Let the processes that vLLM starts meanwhile set up logging: there nobody else does, and no flow runs."""
    os.environ[CONFIGURE] = "1"
    try:
        yield
    finally:
        os.environ[CONFIGURE] = "0"
