"""The smoke study on the real engines: its runs, its tables, and that it is not made twice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "configs" / "studies" / "smoke.toml"


def study(cwd: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PREFECT_API_URL": PREFECT_API_URL.value() or "",
        "TAPO_CACHE": str(cache),
    }
    command = [sys.executable, "-m", "tapo_core", "study", str(FILE)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=1000, check=False)


@pytest.mark.timeout(1200)  # a minute, but for a machine that does much else
@pytest.mark.usefixtures("prefect_server")
def test_a_study_from_its_file_to_its_tables(tmp_path: Path, nano_cache: Path) -> None:
    made = study(tmp_path, nano_cache)
    assert made.returncode == 0, made.stdout + made.stderr
    folder = tmp_path / "runs" / "studies" / "smoke"
    page = (folder / "results.md").read_text()
    assert "2 of 2 runs, seeds 0, 12 held-out problems with 4 samples each" in page
    assert "**TAPO less GRPO, at equal steps** (points):" in page
    assert "**TAPO less GRPO, at equal generated tokens** (points):" in page
    assert (folder / "images" / "study-smoke-chain-cold.svg").exists()
    stores = sorted(folder.glob("chain-cold-*/store/ledger.jsonl"))
    ledgers = [file.read_bytes() for file in stores]
    assert len(ledgers) == 2
    again = study(tmp_path, nano_cache)
    assert again.returncode == 0, again.stderr
    assert "done in" not in again.stdout
    assert [file.read_bytes() for file in stores] == ledgers
    assert (folder / "results.md").read_text() == page
