"""Every page of a run of a million rollouts: its first byte comes within half a second.

Making the run takes most of an hour on two cores. TAPO_SYNTHETIC_RUNS names a folder in which ``benchmarks/viewer.py`` has made
it already.
"""

import os
from pathlib import Path

import pytest
from viewer import make_run, measure

LIMIT = 0.5  #: seconds, for the median of several requests
ROLLOUTS = 1_000_000


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_first_byte_of_every_page(tmp_path: Path) -> None:
    folder = Path(os.environ.get("TAPO_SYNTHETIC_RUNS") or tmp_path)
    run_folder = make_run(folder, ROLLOUTS, 60)
    timed = measure(folder, run_folder, times=5)
    assert len(timed) > 10
    assert {one.page: round(one.median, 3) for one in timed if one.median > LIMIT} == {}
