"""Files as they come: with byte-order marks, of other formats, with rows of other shapes. Each is read, or named in one line."""

import gzip
import json
import os
import re
import stat
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from tapo_core.config import ColumnsConfig, SamplerConfig
from tapo_core.data import Inputs, check_lengths, load_queries
from tapo_core.data_tables import check_there
from tapo_core.errors import DataError

ROWS: list[dict[str, Any]] = [{"problem": "1 + 1?", "answer": "2"}, {"problem": "2 * 3?", "answer": "6"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
BOM = b"\xef\xbb\xbf"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "data.md"
MESSAGES = [{"role": "system", "content": "Think."}, {"role": "user", "content": "1 + 1?"}]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets-cache"))


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet(path: Path, table: pyarrow.Table) -> Path:
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(table, path)
    return path


def refused(location: str | Path, split: str = "train", columns: ColumnsConfig | None = None) -> str:
    """The one line that a data set is refused with."""
    with pytest.raises(DataError) as caught:
        load_queries(location, split, "run", columns=columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        BOM + LINES.encode(),
        BOM + b"\n" + LINES.encode(),
        b"".join(BOM + line for line in LINES.encode().splitlines(keepends=True)),
        LINES.replace("\n", "\r\n").encode(),
        BOM + LINES.replace("\n", "\r").encode(),
        LINES.encode().rstrip(),
        b"\n \n" + LINES.encode() + b"\n\n",
    ],
    ids=["mark", "mark-alone", "concatenated", "crlf", "cr", "no-last-line-end", "blank-lines"],
)
def test_marks_and_line_ends_are_no_content(tmp_path: Path, content: bytes) -> None:
    plain = [query.query_id for query in load_queries(write(tmp_path / "plain.jsonl", LINES), "train", "run")]
    for name in ("d.jsonl", "d.JSONL", "d.Json", "d"):
        found = load_queries(write(tmp_path / name, content), "train", "run")
        assert [query.query_id for query in found] == plain


def test_no_character_of_a_text_ends_a_line(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\ufeffj\0k"
    path = write(
        tmp_path / "d.jsonl",
        "".join(json.dumps({"problem": f"{text}{i}", "answer": "1"}, ensure_ascii=False) + "\n" for i in "xy"),
    )
    raw = path.read_text().replace("\\u2028", "\u2028")
    assert [query.text for query in load_queries(write(path, raw), "train", "run")] == [f"{text}x", f"{text}y"]


@pytest.mark.parametrize("name", ["d.parquet", "d.PARQUET", "d.Parquet"])
def test_parquet_is_parquet_in_capitals_too(tmp_path: Path, name: str) -> None:
    path = parquet(tmp_path / name, pyarrow.Table.from_pylist(ROWS))
    assert [query.gold for query in load_queries(path, "train", "run")] == ["2", "6"]
    renamed = path.rename(tmp_path / "d.jsonl")
    assert refused(renamed) == f"{renamed}: a Parquet file; give its name the ending .parquet; check data.train"


def test_a_folder_leaves_no_file_out_for_its_ending(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.jsonl", BOM + LINES.encode())
    assert len(load_queries(tmp_path / "d", "train", "run")) == 2
    write(tmp_path / "d" / ".cache" / "b.PARQUET", "")
    assert len(load_queries(tmp_path / "d", "train", "run")) == 2
    for name in ("b.PARQUET", "b.JSONL.gz", "b.jsonl.GZ"):
        file = write(tmp_path / "d" / name, "")
        assert f"rename it to {name.lower()}" in refused(tmp_path / "d")
        file.unlink()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (LINES.encode("utf-16"), "UTF-16 text, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8"),
        (LINES.encode("utf-16-le"), "iconv -f UTF-16LE"),
        (LINES.encode("utf-16-be"), "iconv -f UTF-16BE"),
        (LINES.encode("utf-32"), "iconv -f UTF-32"),
        (gzip.compress(LINES.encode(), mtime=0), "compressed (gzip); decompress it"),
        (b"PK\x03\x04" + bytes(30), "a zip archive"),
        ("<!DOCTYPE html>\n<html><title>404</title></html>\n", "a web page or XML in place of the data"),
        (json.dumps(ROWS), "a JSON array, not lines of JSON; name its folder instead"),
        (json.dumps(ROWS, indent=2), "a JSON array"),
        (json.dumps(ROWS[0], indent=2), "write one object a line: jq -c . OLD > NEW"),
        ("problem,answer\n1 + 1?,2\n", "a table by its first line, 'problem,answer'"),
        ("problem\tanswer\n1 + 1?\t2\n", "a table by its first line"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "fetch the data with git lfs pull"),
        ("", "no queries in it"),
        ("\n\n \n", "no queries in it"),
    ],
)
def test_other_formats_are_called_by_their_name(tmp_path: Path, content: str | bytes, says: str) -> None:
    path = write(tmp_path / "d.jsonl", content)
    assert says in refused(path)
    assert str(path) in refused(path)


def test_what_the_hints_say_is_true_of_folders(tmp_path: Path) -> None:
    write(tmp_path / "gz" / "d.jsonl.gz", gzip.compress(LINES.encode()))
    write(tmp_path / "array" / "d.json", json.dumps(ROWS))
    write(tmp_path / "csv" / "d.csv", BOM + b"problem,answer\n1 + 1?,2\n2 * 3?,6\n")
    for name in ("gz", "array", "csv"):
        assert [query.gold for query in load_queries(tmp_path / name, "train", "run")] == ["2", "6"]
    write(tmp_path / "bad" / "d.jsonl", LINES + "{\n")
    assert "name a file such as d.jsonl itself, and its bad rows are named" in refused(tmp_path / "bad")
    assert f"{tmp_path}/bad/d.jsonl:3: not valid JSON" in refused(tmp_path / "bad" / "d.jsonl")


def test_what_is_no_file_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe.jsonl")
    os.mkfifo(tmp_path / "pipe.parquet")
    (tmp_path / "loop").symlink_to("loop")
    write(tmp_path / "d.jsonl", LINES)
    says = {
        "pipe.jsonl": "a pipe or a device, not a file",
        "pipe.parquet": "a pipe or a device, not a file",
        "/dev/null": "a pipe or a device, not a file",
        "loop": "Too many levels of symbolic links",
        "": "not a path",
        "a\0b": "not a path",
        "a\udcff": "not a path",
        "x" * 5000: "File name too long",
        "~/d.jsonl": "~ stands for nothing here",
        "s3://bucket/d.parquet": "download it",
        "openai/gsm8k": "write hf:openai/gsm8k",
        "*.jsonl": "no pattern is read",
        "d.jsonl:train": "a file has no splits",
    }
    for location, said in says.items():
        assert said in refused(location), location
        with pytest.raises(DataError, match=re.escape(said)):
            check_there(location, "data.train")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    paths = [write(tmp_path / "closed" / name, LINES) for name in ("d.jsonl", "d.parquet")]
    for path in paths:
        path.chmod(0)
    for folder in (*reversed(tmp_path.parents), tmp_path, tmp_path / "closed"):
        if folder.stat().st_uid == os.geteuid() and str(folder).startswith("/tmp"):
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    try:
        os.seteuid(65534)
        for path in paths:
            assert f"{path}: cannot read the data file (Permission denied); check data.train" == refused(path)
        os.seteuid(0)
        (tmp_path / "closed").chmod(0)
        os.seteuid(65534)
        for path in paths:
            assert "(Permission denied)" in refused(path)
    finally:
        os.seteuid(0)
        (tmp_path / "closed").chmod(0o700)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"problem": "\xe9", "answer": "1"}', "not UTF-8 text (invalid continuation byte at byte 13); save it as UTF-8"),
        (bytes(64), "not valid JSON (Expecting value at column 1); the line is nothing but NUL bytes"),
        ('{"problem": "\\sqrt{2}", "answer": "1"}', r"JSON writes a backslash twice: \\frac"),
        ('{"problem": "a", "answer": "$\\frac12$"}', r"the answer has the character '\x0c' where LaTeX has \frac"),
        ('{"problem": "a", "answer": "$\\theta$"}', r"the answer has the character '\t' where LaTeX has \theta"),
        ('{"problem": "a", "answer": "1"},', "take the comma at its end away"),
        ('{"problem": "a", "answer": "1"}\ufeff{"problem": "b", "answer": "1"}', "put each object on a line of its own"),
        ("{'problem': 'a', 'answer': '1'}", "JSON has names and texts in double quotes"),
        ('{"problem": "a", "answer": "1", "answer": "2"}', "'answer' occurs twice in the row"),
        ('{"problem": "a", "answer": 1' + "0" * 5000 + "}", "a number has too many digits; put it in quotes"),
        ('{"problem": "a", "answer": NaN}', "answer is float, not a string; put it in quotes"),
        ('{"problem": "a", "answer": 123456789012345678901}', "answer is int, not a string; put it in quotes"),
        ('{"problem": "a", "answer": true}', "answer is bool, not a string; put it in quotes"),
        ('{"problem": "a", "answer": ["1", "2"]}', "answer is a list of 2 (str), not a string; write the answer as text"),
        ('{"problem": "a", "answer": {"value": "1"}}', "answer is an object with value inside, not a string"),
        ('{"problem": "a", "answer": "1", "family": "\\ud800"}', "the family has half a character in it"),
    ],
)  # fmt: skip
def test_bad_rows_say_what_to_do_and_can_be_left_out(tmp_path: Path, line: str | bytes, says: str) -> None:
    path = write(tmp_path / "d.jsonl", LINES.encode() + (line.encode() if isinstance(line, str) else line) + b"\n")
    told = refused(path)
    assert told.startswith(f"{path}:3: ")
    assert says in told
    assert told.endswith("; mend the data, or set data.skip_bad_rows = true to leave bad rows out")
    assert "a benchmark is read whole or not at all" in refused(path, "bench")
    assert len(load_queries(path, "train", "run", skip=lambda error: None)) == 2


def test_all_bad_rows_are_counted_and_the_first_ones_named(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", LINES + "{\n" * 15)
    told = refused(path)
    assert told.startswith(f"15 bad rows, the first 3: {path}:3: not valid JSON")
    assert [f"{path}:{row}:" in told for row in (3, 4, 5, 6)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "a", "answer": "1"}, 'name it in columns: data.columns.problem = "question"'),
        ({"Problem": "a", "Answer": "1"}, 'data.columns.problem = "Problem"'),
        ({"\ufeffproblem": "a", "answer": "1"}, r"""(there are '\ufeffproblem', answer); name it in columns: data.columns"""),
        ({"problem": "a", "prblem": "b", "solution": "1"}, 'data.columns.answer = "solution"'),
        ({"messages": MESSAGES, "answer": "1"}, "messages is a list of chat messages (system, user): write the problem"),
        ({"problem": MESSAGES, "answer": "1"}, "TAPO puts the chat template around the problem's text itself"),
        ({"problem": MESSAGES, "question": "a"}, "the column 'answer' is missing"),
        ({"problem": MESSAGES, "question": "a", "answer": "1"}, 'or name another: data.columns.problem = "question"'),
        ({"conversations": [{"from": "human", "value": "a"}]}, "conversations is a list of chat messages (human)"),
        ({"problem": "a", "reward_model": {"ground_truth": "1", "style": "rule"}}, "an object with ground_truth, style inside"),
        ({"data": [ROWS[0]]}, """jq -c '.["data"][]' OLD > NEW"""),
    ],
)  # fmt: skip
def test_columns_of_other_names_and_shapes_get_a_hint(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    assert says in refused(write(tmp_path / "d.jsonl", json.dumps(row)))
    if "jq" not in says and "name another" not in says:  # of typed columns, only those that are needed are read
        assert says in refused(parquet(tmp_path / "d.parquet", pyarrow.Table.from_pylist([row])))


def test_a_hint_names_the_setting_of_its_data_set(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", '{"question": "a", "answer": "#### 1"}\n')
    columns = ColumnsConfig(answer_pattern="#### (.+)")
    for split, says in {
        "train": 'data.columns.problem = "question"',
        "held_out": 'data.held_out_columns = {problem = "question", answer_pattern = "#### (.+)"}',
        "b": f'evaluation.datasets.b = {{path = "{path}", columns = {{problem = "question", answer_pattern = "#### (.+)"}}}}',
    }.items():
        assert refused(path, split, columns).endswith(f"name it in columns: {says}")
    inside = refused(path, columns=ColumnsConfig(problem="question", answer="answer.text"))
    assert "the column 'answer.text' is missing" in inside
    row = {"problem": "a", "reward_model": {"ground_truth": "1"}}
    for nested in (write(path, json.dumps(row)), parquet(tmp_path / "d.parquet", pyarrow.Table.from_pylist([row]))):
        told = refused(nested, columns=ColumnsConfig(answer="reward_model.ground_truth"))
        assert (
            "reward_model is an object with ground_truth inside, and a column inside a column cannot be named" in told
        )


def test_columns_of_parquet_files(tmp_path: Path) -> None:
    plain = pyarrow.array(["a", "b"])
    fine = {
        "dictionary": plain.dictionary_encode(),
        "large": plain.cast(pyarrow.large_string()),
        "view": plain.cast(pyarrow.string_view()),
    }
    for name, column in fine.items():
        path = parquet(tmp_path / f"{name}.parquet", pyarrow.table({"problem": column, "answer": [1, 2]}))
        assert [(q.text, q.gold) for q in load_queries(path, "train", "run")] == [("a", "1"), ("b", "2")]
    not_unicode = pyarrow.Array.from_buffers(pyarrow.string(), 1, pyarrow.array([b"\xff"]).buffers())
    bad: dict[str, tuple[Any, str]] = {
        "decimal": ([Decimal("3.00")], "answer is Decimal, not a string; make it a string column"),
        "binary": ([b"1"], "answer is bytes, not a string; make it a string column"),
        "struct": ([{"value": "1"}], "answer is an object with value inside, not a string"),
        "list": ([["1"]], "answer is a list of 1 (str), not a string"),
        "null": (pyarrow.nulls(1), "the answer is empty"),
        "not-unicode": (not_unicode, "a value cannot be read ('utf-8' codec can't decode"),
        "year-70000": (pyarrow.array([2**61], pyarrow.timestamp("ms")), "a value cannot be read"),
    }
    for name, (column, says) in bad.items():
        path = parquet(tmp_path / f"{name}.parquet", pyarrow.table({"problem": ["a"], "answer": column}))
        assert says in refused(path), name
    for name in ("not-unicode", "year-70000"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / f"{name}.parquet").rename(tmp_path / "folder" / "d.parquet")
        assert f"{tmp_path}/folder: a value cannot be read" in refused(tmp_path / "folder")
    twice = pyarrow.Table.from_arrays([plain, plain, plain], names=["problem", "answer", "answer"])
    assert "2 columns are called 'answer'" in refused(parquet(tmp_path / "twice.parquet", twice))
    dotted = pyarrow.table({"problem": ["a"], "reward.answer": ["1"], "reward": [{"answer": "2"}]})
    (query,) = load_queries(
        parquet(tmp_path / "dotted.parquet", dotted), "train", "run", columns=ColumnsConfig(answer="reward.answer")
    )
    assert query.gold == "1"
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    assert "fetch the data with git lfs pull" in refused(write(tmp_path / "pointer.parquet", pointer))


def test_levels_are_whole_numbers_that_can_be_stored(tmp_path: Path) -> None:
    levels = [
        "3",
        "3.0",
        '"Level 5"',
        "-1",
        "99999999999",
        '"Level 12345678901"',
        "1e300",
        "NaN",
        "-Infinity",
        "true",
        "[1]",
    ]
    lines = [f'{{"problem": "{n}", "answer": "1", "level": {level}}}\n' for n, level in enumerate(levels)]
    found = load_queries(write(tmp_path / "d.jsonl", "".join(lines)), "train", "run")
    assert [query.level for query in found] == [3, 3, 5, -1, *[None] * 7]


def test_rows_that_are_too_long_are_named_or_left_out(tmp_path: Path) -> None:
    settings = SamplerConfig(max_model_len=100, max_new_tokens=60)
    rows = [{"problem": f"{n} " + "x" * (n % 2) * 60 * n, "answer": "1"} for n in range(10)]
    path = write(tmp_path / "d.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    counted: list[str] = []

    def count_tokens(text: str) -> int:
        counted.append(text)
        return len(text)

    def inputs(split: str) -> Inputs:
        queries = load_queries(path, split, "run")
        return Inputs(queries, {split: ["an earlier one"]}, frozenset(query.query_id for query in queries))

    for split, says in (("train", "or set data.skip_bad_rows = true"), ("bench", "read whole or not at all")):
        with pytest.raises(DataError, match=says) as caught:
            check_lengths(inputs(split), count_tokens, settings, skip=split == "bench")
        assert str(caught.value).startswith(
            f"5 bad rows, the first 3: {path}:2: the prompt has 62 tokens, more than the 40 that sampler.max_model_len = 100 "
            f"leaves beside 60 new tokens; raise it or shorten the row | {path}:4: the prompt has 182 tokens"
        )
    found = check_lengths(inputs("train"), count_tokens, settings, skip=True)
    assert [query.source for query in found.queries] == [f"{path}:{row}" for row in (1, 3, 5, 7, 9)]
    assert [text.partition(": ")[0] for text in found.skipped["train"]] == [
        "an earlier one", *(f"{path}:{row}" for row in (2, 4, 6, 8, 10))
    ]  # fmt: skip
    assert len(found.read) == 10, "what a run was begun with does not depend on how long a prompt may be"
    # Nobody waits for the tokens of a text that cannot fit.
    counted.clear()
    write(path, json.dumps({"problem": "x" * 40_001, "answer": "1"}))
    (told,) = check_lengths(inputs("train"), count_tokens, settings, skip=True).skipped["train"][1:]
    assert "the problem has 40001 characters, which are more tokens than the 40 that" in told
    assert counted == []


def test_the_script_of_the_page_writes_rows_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Rows in other shapes")[2]
    script = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    answers = ['"1/2"', "116", "0.10", "123456789012345678901234567890"]
    rows = [
        json.dumps({"messages": [*MESSAGES[:1], {"role": "user", "content": f"{n}?"}], "n": 0}).replace(
            '"n": 0', f'"reward_model": {{"ground_truth": {answer}}}'
        )
        for n, answer in enumerate(answers)
    ]
    write(tmp_path / "old.jsonl", BOM + "\n".join(rows).encode())
    exec(compile(script, str(PAGE), "exec"), {})
    found = load_queries("new.jsonl", "train", "run")
    assert [(query.text, query.gold) for query in found] == [
        (f"{n}?", answer.strip('"')) for n, answer in enumerate(answers)
    ]
