"""A trainer that nobody started other ranks for, in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

_TRAIN = """
import json, psutil
from tapo_core.engines.openrlhf_runtime import make_strategy

strategies = [make_strategy(stage, 1.0, "float32", 0, False) for stage in (0, 2)]
sockets = [c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
print(json.dumps({"sizes": [strategy.world_size for strategy in strategies], "listens": sorted(set(sockets))}))
"""


ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


@pytest.mark.parametrize("left_by_a_parent", [{}, ALONE])
def test_one_rank_needs_no_port_that_others_could_hold_or_reach(left_by_a_parent: dict[str, str]) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ALONE}
    done = subprocess.run(
        [sys.executable, "-c", _TRAIN],
        env=env | left_by_a_parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Gloo's own socket, on a port that the system chose as it was opened.
    assert json.loads(done.stdout.splitlines()[-1]) == {"sizes": [1, 1], "listens": ["127.0.0.1"]}
