"""Queries from JSONL: every bad row is named by file and line."""

import json
from pathlib import Path

import pytest

from tapo_core.data import load_queries
from tapo_core.errors import DataError

GOOD = {"id": "a", "problem": "1 + 1?", "answer": "2", "family": "chain", "level": 1}


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_become_queries(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", json.dumps(GOOD), "", json.dumps({"problem": " 2 + 2? ", "answer": "4"}))
    first, second = load_queries(path, "train", "run", instruction="Box it.")
    assert (first.text, first.gold, first.family, first.level) == ("1 + 1?\nBox it.", "2", "chain", 1)
    assert (second.text, second.family, second.level) == ("2 + 2?\nBox it.", None, None)
    assert second.source == f"{path}:3"
    assert first.query_id != second.query_id
    assert load_queries(path, "train", "other run", "Box it.")[0].query_id == first.query_id


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", "not valid JSON"),
        ("[1]", "a list, not a JSON object"),
        ('{"problem": "p"}', "the column 'answer' is missing (there are problem)"),
        ('{"problem": "p", "answer": 3}', "answer is int, not a string"),
        ('{"problem": "  ", "answer": "3"}', "the problem is empty"),
        ('{"problem": "p", "answer": ""}', "the answer is empty"),
        (json.dumps(GOOD), "the same problem and answer as"),
    ],
)
def test_a_bad_row_is_an_error_that_names_it(tmp_path: Path, line: str, says: str) -> None:
    path = write(tmp_path / "d.jsonl", json.dumps(GOOD), line)
    with pytest.raises(DataError) as caught:
        load_queries(path, "train", "run")
    assert says in str(caught.value)
    assert f"{path}:2" in str(caught.value)


def test_missing_empty_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: cannot read the data file .* check data\.train"):
        load_queries(tmp_path / "nowhere", "train", "run")
    with pytest.raises(DataError, match="no queries in it"):
        load_queries(write(tmp_path / "empty"), "train", "run")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        load_queries(tmp_path / "binary", "train", "run")
