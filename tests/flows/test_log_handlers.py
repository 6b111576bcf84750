"""Whoever sets up logging anew in a process that sends its log to Prefect's server does not make it hang."""

import logging
import os
import subprocess
import sys

import pytest

from tapo_core.engines.environment import prepare_environment
from tapo_core.engines.logs import logging_in_new_processes, set_up_loggers
from tapo_core.engines.openrlhf_runtime import import_openrlhf
from tapo_core.errors import UserError
from tests.flows.conftest import ROOT

#: Sets up logging in each of the ways that it is given, while log records wait for a server that does not answer, and while
#: another thread holds the lock of Prefect's services and waits for logging's own.
_CHILD = """
import logging, logging.config, os, socket, sys, tempfile, threading, uuid

server = socket.create_server(("127.0.0.1", 0))  # never accepts
os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{server.getsockname()[1]}/api"
from tapo_core.engines.environment import prepare_environment

prepare_environment()
import flows.train
from prefect._internal.concurrency.services import QueueService
from prefect.logging.configuration import setup_logging
from prefect.logging.handlers import APILogHandler, APILogWorker

over = threading.Event()

class Service(QueueService):
    def __init__(self, *args):  # Prefect's `instance` holds the lock of all services
        begun.set()
        for _ in range(50):  # until logging is being set up; whoever does it without its lock does not need to be waited for
            if over.wait(0.01) or not logging._lock.acquire(blocking=False):
                break
            logging._lock.release()
        super().__init__(*args)  # asks logging for a logger

    async def _handle(self, item):
        pass

def with_a_file():
    with tempfile.NamedTemporaryFile("w", suffix=".ini") as file:
        file.write("[loggers]\\nkeys=root\\n[handlers]\\nkeys=\\n[formatters]\\nkeys=\\n[logger_root]\\nhandlers=\\n")
        file.flush()
        logging.config.fileConfig(file.name, disable_existing_loggers=False)

def by_importing_vllm():
    import vllm.logger

ways = {
    "dictConfig": lambda: logging.config.dictConfig({"version": 1, "disable_existing_loggers": False}),
    "fileConfig": with_a_file,
    "prefect": lambda: setup_logging(incremental=False),
    "basicConfig": lambda: logging.basicConfig(force=True),
    "vllm": by_importing_vllm,
}
for number, way in enumerate(sys.argv[1:]):
    log = logging.getLogger(f"sent-{number}")
    log.addHandler(APILogHandler())
    log.error("a record", extra={"flow_run_id": str(uuid.uuid4())})
    begun = threading.Event()
    over.clear()
    other = threading.Thread(target=Service.instance, args=(number,), daemon=True)
    other.start()
    assert begun.wait(60)
    ways[way]()
    over.set()
    other.join(60)
    assert not other.is_alive()
    print(way, flush=True)
workers = [service for service in APILogWorker._instances.values() if isinstance(service, APILogWorker)]
print(len(workers), "log worker,", logging.getLevelName(logging.getLogger("vllm").level), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("ways", [["dictConfig", "fileConfig", "prefect", "basicConfig"], ["vllm"]])
def test_logging_can_be_set_up_anew_while_records_wait_to_be_sent(ways: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *ways],
        env=os.environ | {"PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL", "VLLM_CONFIGURE_LOGGING": "1"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout.split() == [*ways, "1", "log", "worker,", "ERROR"]


def test_vllm_never_sets_up_logging_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CONFIGURE_LOGGING", "1")
    prepare_environment()
    assert os.environ["VLLM_CONFIGURE_LOGGING"] == "0"
    with logging_in_new_processes():
        assert os.environ["VLLM_CONFIGURE_LOGGING"] == "1", "in processes that vLLM starts, nobody else does"
    assert os.environ["VLLM_CONFIGURE_LOGGING"] == "0"
    monkeypatch.setenv("VLLM_LOGGING_CONFIG_PATH", "logging.json")
    with pytest.raises(UserError, match="VLLM_LOGGING_CONFIG_PATH is set"):
        prepare_environment()


def test_engines_print_errors_by_way_of_the_root_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_LOGGING_LEVEL")
    import_openrlhf()
    for name, level in {"vllm.engine": "ERROR", "DeepSpeed": "WARNING", "openrlhf.models.model": "WARNING"}.items():
        logger = logging.getLogger(name)
        assert logging.getLevelName(logger.getEffectiveLevel()) == level
        assert [at for at in (logger, logger.parent) if at is not logging.root and at is not None and at.handlers] == []
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "debug")
    set_up_loggers()
    assert logging.getLogger("vllm.engine").isEnabledFor(logging.DEBUG)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    set_up_loggers()
