"""Checks on measuring data that is not part of the project: run where TAPO_CONFORMANCE_DATA names its folder."""

import json
import os
from pathlib import Path

import pytest

from tapo_core.error_location.arithmetic import wrong_equation
from tapo_core.records import VerificationOutcome
from tapo_core.verification import verify

FOLDER = os.environ.get("TAPO_CONFORMANCE_DATA")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="TAPO_CONFORMANCE_DATA is not set")


def rows(name: str) -> list[dict[str, object]]:
    lines = (Path(FOLDER or "") / name).read_text(encoding="utf-8").splitlines()
    assert lines
    return [json.loads(line) for line in lines]


def test_no_adversarial_answer_is_correct_and_none_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for row in rows("verifier/adversarial.jsonl"):
        assert verify(str(row["pred"]), str(row["gold"])).outcome is not VerificationOutcome.CORRECT, row["id"]
    assert list(tmp_path.iterdir()) == [], "something was executed"


def test_the_verifier_never_calls_a_wrong_answer_correct() -> None:
    wrongly = []
    for row in rows("verifier/cases_dev.jsonl"):
        prediction = str(row["pred"])
        text = prediction if "\\boxed" in prediction else f"\\boxed{{{prediction}}}"
        if verify(text, str(row["gold"])).outcome is VerificationOutcome.CORRECT and row["expected"] is False:
            wrongly.append(row["id"])
    assert len(wrongly) <= 2, wrongly


def test_the_arithmetic_method_bounds_the_first_error() -> None:
    """Where it flags a step of an attempt that people found wrong, their first error is there or before, mostly."""
    flagged = bounded = 0
    for row in rows("first_error/processbench_dev.jsonl"):
        label = row["label"]
        assert isinstance(label, int)
        steps = row["steps"]
        assert isinstance(steps, list)
        if label < 0:
            continue
        found = next((i for i, step in enumerate(steps) if wrong_equation(str(step)) is not None), None)
        if found is not None:
            flagged += 1
            bounded += label <= found
    assert flagged > 20
    assert bounded / flagged > 0.75, f"{bounded} of {flagged}"
