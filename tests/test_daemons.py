"""Processes that outlive the command that started them."""

import os
import signal
import sys
from pathlib import Path

from tapo_core.processes import Daemon

SAYS = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, flush=True); signal.pause()"


def test_a_daemon_does_not_ignore_what_its_starter_does(tmp_path: Path) -> None:
    """In a script ``tapo up &`` ignores SIGINT, by which Prefect's server ends."""
    daemon = Daemon(tmp_path, "daemon")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = daemon.start([sys.executable, "-c", SAYS], os.environ, tmp_path)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN, "as before"
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        while not (said := daemon.log.read_text()):
            assert process.is_running()
        assert said == "False\n"
    finally:
        assert daemon.stop(seconds=60)
    assert daemon.process is None
