"""How results are printed, in every format; what a model wrote can break none of them."""

import csv
import io
import json

import pandas
import pytest

from tapo_core.cli.formats import TableFormat
from tapo_core.cli.show import print_table
from tapo_core.text import markdown_table

FRAME = pandas.DataFrame({"text": ["a|b\n\x1b[31mc", None], "value": [0.123456, float("nan")], "n": [3, 40000]})


def printed(output: TableFormat, capsys: pytest.CaptureFixture[str]) -> str:
    print_table(FRAME, output)
    return capsys.readouterr().out


def test_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(TableFormat.MARKDOWN, capsys).splitlines() == [
        "| text | value | n |",
        "|---|---|---|",
        "| a\\|b \N{REPLACEMENT CHARACTER}[31mc | 0.1235 | 3 |",
        "|  |  | 40000 |",
    ]
    assert markdown_table(["a"], []) == "| a |\n|---|"


def test_csv_and_json_keep_every_value(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(printed(TableFormat.CSV, capsys))))
    assert [(row["text"], row["n"]) for row in rows] == [("a|b\n\x1b[31mc", "3"), ("", "40000")]
    lines = [json.loads(line) for line in printed(TableFormat.JSON, capsys).splitlines()]
    assert lines[0] == {"text": "a|b\n\x1b[31mc", "value": 0.123456, "n": 3}
    assert lines[1]["value"] is None


def test_a_table_shows_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(TableFormat.TABLE, capsys)
    assert "\x1b" not in shown
    assert "0.1235" in shown
