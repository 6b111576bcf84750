"""Checks on measuring data that is not part of the project: run where TAPO_CONFORMANCE_DATA names its folder."""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapo_core.config import ColumnsConfig
from tapo_core.config_verifier import VerifierConfig
from tapo_core.data import load_queries
from tapo_core.decontamination import find_overlaps, find_repeats
from tapo_core.error_location.arithmetic import wrong_equation
from tapo_core.records import Query, VerificationOutcome
from tapo_core.verification.base import Question, Verdict
from tapo_core.verification.math import MathVerifier

FOLDER = os.environ.get("TAPO_CONFORMANCE_DATA")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="TAPO_CONFORMANCE_DATA is not set")


def rows(name: str) -> list[dict[str, object]]:
    lines = (Path(FOLDER or "") / name).read_text(encoding="utf-8").splitlines()
    assert lines
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    made = MathVerifier(VerifierConfig(), workers=2)
    yield made
    made.close()


def judged(verifier: MathVerifier, name: str) -> list[tuple[dict[str, object], Verdict]]:
    """The cases of a file with their verdicts: rollouts with a box and bare answers alike, as they are."""
    cases = rows(name)
    verdicts = verifier.verify([Question("", str(row["gold"]), str(row["pred"])) for row in cases])
    return list(zip(cases, verdicts, strict=True))


def test_no_adversarial_answer_is_correct_and_none_runs(
    verifier: MathVerifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for row, verdict in judged(verifier, "verifier/adversarial.jsonl"):
        assert verdict.outcome is not VerificationOutcome.CORRECT, row["id"]
    assert list(tmp_path.iterdir()) == [], "something was executed"
    assert not Path("/verifier-executed-code").exists(), "in the folder that workers work in"


def test_verdicts_are_right(verifier: MathVerifier) -> None:
    found = judged(verifier, "verifier/cases_dev.jsonl")
    right = [(verdict.outcome is VerificationOutcome.CORRECT) == row["expected"] for row, verdict in found]
    assert sum(right) / len(right) >= 0.98
    assert sum(verdict.outcome is VerificationOutcome.CORRECT and not row["expected"] for row, verdict in found) <= 2


def test_gold_answers_of_every_data_set_can_be_verified(verifier: MathVerifier) -> None:
    """But for a handful in twenty thousand, which are named."""
    golds = sorted(
        {q.gold for folder in ("benchmarks", "train") for queries in data_sets(folder).values() for q in queries}
    )
    problems = {g: p for g, p in zip(golds, verifier.gold_problems(golds), strict=True) if p}
    assert len(golds) > 3000
    assert len(problems) <= len(golds) / 200, problems


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
