"""Checks on measuring data that is not part of the project: run where TAPO_CONFORMANCE_DATA names its folder."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from tapo_core.config import ColumnsConfig
from tapo_core.data import load_queries
from tapo_core.decontamination import find_overlaps, find_repeats
from tapo_core.error_location.arithmetic import wrong_equation
from tapo_core.records import Query, VerificationOutcome
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


def data_sets(folder: str) -> dict[str, list[Query]]:
    """Every data set in a folder, each row of it a query."""
    found = {}
    for path in sorted((Path(FOLDER or "") / folder).glob("*.jsonl")):
        columns = ColumnsConfig(family="type") if path.stem.startswith("math_train") else ColumnsConfig()
        found[path.stem] = load_queries(path, path.stem, "", columns=columns)
        assert len(found[path.stem]) == len(rows(f"{folder}/{path.name}"))
    return found


def test_every_data_set_loads_whole() -> None:
    benchmarks, train = data_sets("benchmarks"), data_sets("train")
    assert {name: len(queries) for name, queries in benchmarks.items()} == {
        **{"aime24": 30, "aime25": 30, "hmmt25": 30},
        **{"gsm8k_test": 1319, "math500": 500},
    }
    assert {query.level for query in benchmarks["math500"]} == {1, 2, 3, 4, 5}
    assert {query.family for query in train["math_train_7474_clean"]} >= {"Algebra", "Number Theory"}


def test_clean_training_sets_have_no_duplicate_in_a_benchmark_and_planted_ones_are_found() -> None:
    others = [query for queries in data_sets("benchmarks").values() for query in queries]
    planted = 0
    for name, queries in data_sets("train").items():
        assert find_overlaps(queries, others) == [], name
        # Every tenth benchmark problem, dressed differently, in the midst of the training set.
        copies = [
            dataclasses.replace(
                query, text=query.text.replace("$", " ").replace(r"\frac", r"\dfrac").upper(), source="copy"
            )
            for query in others[::10]
        ]
        # \DFRAC is no LaTeX, but case is not looked at.
        found = find_overlaps([*queries, *copies], others)
        assert {overlap.query.query_id for overlap in found} == {copy.query_id for copy in copies}
        planted += len(copies)
    assert planted > 300


def test_repeats_within_a_training_set_are_few() -> None:
    for name, queries in data_sets("train").items():
        repeats = find_repeats(queries)
        assert 0 < len(repeats) < len(queries) / 100, name
