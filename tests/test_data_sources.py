"""Data sets in every form that can be named: the same rows give the same queries, and whatever is wrong is one line."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapo_core.config import ColumnsConfig
from tapo_core.config_file import load_config
from tapo_core.data import load_inputs, load_queries
from tapo_core.errors import ConfigError, DataError

ROWS: list[dict[str, Any]] = [
    {"problem": "1 + 1?", "answer": "2", "family": "sum", "level": 1},
    {"problem": "2 * 3?", "answer": "6", "family": "product", "level": 2},
]
GSM8K = [
    {"question": "Weng earns $12 an hour. ...", "answer": "12/60 = <<12/60=0.2>>0.2 a minute.\n#### 10"},
    {"question": "Betty saves. ...", "answer": "She has 1,100.\n#### 1,100"},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets-cache"))


def json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def saved(path: Path, rows: list[dict[str, Any]]) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


def saved_splits(path: Path, rows: list[dict[str, Any]]) -> Path:
    datasets.DatasetDict({"main": datasets.Dataset.from_list(rows)}).save_to_disk(path)
    return path


def data_files(path: Path, rows: list[dict[str, Any]]) -> Path:
    json_lines(path / "train.jsonl", rows)
    return path


@pytest.mark.parametrize("write", [json_lines, parquet, saved, saved_splits, data_files], ids=lambda f: f.__name__)
def test_the_same_rows_are_the_same_queries(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / ("d.parquet" if write is parquet else "d"), ROWS)
    first, second = load_queries(str(path), "train", "run")
    assert (first.text, first.gold, first.family, first.level) == ("1 + 1?", "2", "sum", 1)
    assert (first.source, second.source) == (f"{path}:1", f"{path}:2")
    reference = load_queries(json_lines(tmp_path / "reference.jsonl", ROWS), "train", "run")
    assert [q.query_id for q in (first, second)] == [q.query_id for q in reference]
    for query in (first, second):
        assert query.family == ROWS[int(query.source.rpartition(":")[2]) - 1]["family"]


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip)


@settings(max_examples=25, database=None)
@given(
    st.lists(
        st.tuples(_TEXT, st.integers(-999, 999).map(str)), min_size=1, max_size=5, unique_by=lambda r: r[0].strip()
    )
)
def test_json_lines_and_parquet_give_the_same_ids(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("round-trip")
    plain = [{"problem": problem, "answer": answer} for problem, answer in rows]
    one = load_queries(json_lines(folder / "d.jsonl", plain), "train", "run")
    read_back = pyarrow.parquet.read_table(parquet(folder / "d.parquet", plain)).to_pylist()
    other = load_queries(folder / "d.parquet", "train", "run")
    again = load_queries(json_lines(folder / "again.jsonl", read_back), "train", "run")
    assert [q.query_id for q in one] == [q.query_id for q in other] == [q.query_id for q in again]
    assert len(one) == len(rows)


def test_splits_are_chosen_by_name(tmp_path: Path) -> None:
    splits = {name: datasets.Dataset.from_list([row]) for name, row in zip(("test", "train"), ROWS, strict=True)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    for name, row in zip(("test", "train"), ROWS, strict=True):
        json_lines(tmp_path / "files" / f"{name}.jsonl", [row])
    for folder in ("saved", "files"):
        (query,) = load_queries(f"{tmp_path / folder}:train", "train", "run")
        assert (query.text, query.source) == ("2 * 3?", f"{tmp_path / folder}:train:1")
        with pytest.raises(DataError, match=r"several splits \(test, train\); say which: .*:test"):
            load_queries(tmp_path / folder, "train", "run")
        with pytest.raises(DataError, match=r"no split 'dev' .there are test, train"):
            load_queries(f"{tmp_path / folder}:dev", "train", "run")
    with pytest.raises(DataError, match=r"no split 'dev' .it has none, leave it out"):
        load_queries(f"{saved(tmp_path / 'one', ROWS)}:dev", "train", "run")


@pytest.mark.parametrize("write", [json_lines, parquet], ids=lambda f: f.__name__)
def test_columns_and_answers_of_gsm8k(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / ("d.parquet" if write is parquet else "d.jsonl"), GSM8K)
    columns = ColumnsConfig(problem="question", answer_pattern="#### (.+)")
    queries = load_queries(path, "train", "run", columns=columns)
    assert [query.gold for query in queries] == ["10", "1,100"]
    assert queries[0].text == GSM8K[0]["question"]
    with pytest.raises(DataError, match=r":1: answer_pattern finds nothing in the answer, which ends in .*#### 10"):
        load_queries(path, "train", "run", columns=ColumnsConfig(problem="question", answer_pattern=r"boxed{(.+)}"))
    with pytest.raises(
        DataError, match=r"the column 'problem' is missing \(there are answer, question\); name it in co"
    ):
        load_queries(path, "train", "run")


def test_columns_of_aime_and_math(tmp_path: Path) -> None:
    aime = parquet(tmp_path / "aime.parquet", [{"ID": "2024-I-4", "Problem": "Jen ...", "Answer": 116}])
    (query,) = load_queries(aime, "aime24", "run", columns=ColumnsConfig(problem="Problem", answer="Answer"))
    assert query.gold == "116"
    algebra = {"problem": "x?", "answer": "1", "type": "Algebra", "level": "Level 5"}
    rows = [algebra, algebra | {"problem": "y?", "level": "Level ?"}]
    math = parquet(tmp_path / "math.parquet", rows)
    found = load_queries(math, "train", "run", columns=ColumnsConfig(family="type"))
    assert [(query.family, query.level) for query in found] == [("Algebra", 5), ("Algebra", None)]
    for path in (math, json_lines(tmp_path / "math.jsonl", rows)):
        with pytest.raises(DataError, match="the column 'subject' is missing"):
            load_queries(path, "train", "run", columns=ColumnsConfig(family="subject"))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "the answer is empty"),
        (" ", "the answer is empty"),
        (0.5, "answer is float, not a string; make it a string"),
    ],
)
def test_a_bad_row_of_a_parquet_file_is_named(tmp_path: Path, answer: object, says: str) -> None:
    good = "2" if not isinstance(answer, float) else 2.0
    path = parquet(tmp_path / "d.parquet", [{"problem": "a", "answer": answer}, {"problem": "b", "answer": good}])
    with pytest.raises(DataError, match=says) as caught:
        load_queries(path, "train", "run")
    assert f"{path}:1" in str(caught.value)


def test_what_cannot_be_stored_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"problem": "half \\ud83d", "answer": "1"}\n')
    with pytest.raises(DataError, match=":1: the problem has half a character in it"):
        load_queries(path, "train", "run")
    path.write_text("[" * 100_000 + "\n")
    with pytest.raises(DataError, match=":1: JSON that cannot be read"):
        load_queries(path, "train", "run")


def test_bad_rows_are_skipped_only_when_asked_and_each_is_told(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    lines = [
        *map(json.dumps, ROWS),
        "{",
        json.dumps({"problem": "3?"}),
        json.dumps(ROWS[0]),
        '{"problem": "4?", "answer": ""}',
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    bad: list[DataError] = []
    assert len(load_queries(path, "train", "run", skip=bad.append)) == 2
    assert [str(error).split(": ", 1)[0] for error in bad] == [f"{path}:{line}" for line in (3, 4, 5, 6)]
    with pytest.raises(DataError, match=":3: not valid JSON"):
        load_queries(path, "train", "run")
    path.write_text("{\n[\n")
    with pytest.raises(DataError, match=r"every row is bad; the first one: .*:1: not valid JSON"):
        load_queries(path, "train", "run", skip=bad.append)


def test_a_benchmark_is_whole_or_an_error(tmp_path: Path) -> None:
    good = json_lines(tmp_path / "good.jsonl", ROWS)
    bad = json_lines(tmp_path / "bad.jsonl", [{"problem": "1?", "answer": ""}, *ROWS])
    config = tmp_path / "c.toml"
    config.write_text('[run]\nname = "a"\n')
    overrides = ["data.skip_bad_rows=true", f"data.train={bad}", f"data.held_out={good}"]
    inputs = load_inputs(load_config(config, overrides), str(bad), str(good), "run")
    assert inputs.skipped == {"train": [f"{bad}:1: the answer is empty; every row needs a gold answer"], "held_out": []}
    with pytest.raises(DataError, match="the answer is empty"):
        load_inputs(load_config(config, [*overrides, f"evaluation.datasets.b={bad}"]), str(bad), str(good), "run")


def test_benchmarks_are_paths_or_tables_with_columns(tmp_path: Path) -> None:
    json_lines(tmp_path / "d.jsonl", ROWS)
    json_lines(tmp_path / "gsm8k.jsonl", GSM8K)
    config = tmp_path / "c.toml"
    config.write_text(
        f"""
        [run]
        name = "a"
        [data]
        columns = {{problem = "question", answer_pattern = "#### (.+)"}}
        held_out_columns = {{}}
        [evaluation.datasets]
        plain = "{tmp_path}/d.jsonl"
        table = {{path = "{tmp_path}/gsm8k.jsonl", columns = {{problem = "question", answer_pattern = "#### (.+)"}}}}
        """
    )
    gsm8k, plain = f"{tmp_path}/gsm8k.jsonl", f"{tmp_path}/d.jsonl"
    inputs = load_inputs(load_config(config, [f"data.train={gsm8k}", f"data.held_out={plain}"]), gsm8k, plain, "run")
    golds = {
        split: [q.gold for q in inputs.queries if q.split == split] for split in ("train", "held_out", "plain", "table")
    }
    assert golds == {"train": ["10", "1,100"], "held_out": ["2", "6"], "plain": ["2", "6"], "table": ["10", "1,100"]}
    # The built-in data have the built-in columns, whatever the others are called.
    assert load_inputs(load_config(config), plain, plain, "run").queries[0].gold == "2"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("evaluation.datasets.x.colums.problem=q", "x.colums (did you mean evaluation.datasets.x.columns?)"),
        ("evaluation.datasets.x.columns.probelm=q", "did you mean evaluation.datasets.x.columns.problem?"),
        ("data.columns.anwser=q", "unknown key data.columns.anwser (did you mean data.columns.answer?)"),
        ("evaluation.datasets.x=3", "evaluation.datasets.x: write a path, or a table: {path = ..., columns = {...}}"),
        ("evaluation.datasets.x={columns={}}", "key evaluation.datasets.x.path is missing"),
        ("data.columns.answer_pattern='####'", "data.columns.answer_pattern: 0 groups in it"),
        ("data.columns.answer_pattern='(#'", "data.columns.answer_pattern: not a regular expression"),
        ("data.decontaminate=yes", "data.decontaminate: Input should be 'report', 'drop' or 'off'"),
    ],
)  # fmt: skip
def test_bad_settings_name_their_key(tmp_path: Path, override: str, says: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[run]\nname = "a"\n')
    with pytest.raises(ConfigError) as caught:
        load_config(config, [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_and_folders_that_are_not_what_they_seem(tmp_path: Path) -> None:
    (tmp_path / "d.parquet").write_text("no")
    with pytest.raises(DataError, match=r"not a Parquet file, or damaged .* check data\.train"):
        load_queries(tmp_path / "d.parquet", "train", "run")
    whole = parquet(
        tmp_path / "whole.parquet", [{"problem": f"{n}?" * 50, "answer": "1"} for n in range(500)]
    ).read_bytes()
    (tmp_path / "damaged.parquet").write_bytes(whole[:200] + bytes(200) + whole[400:])
    with pytest.raises(DataError, match=r"damaged\.parquet: (not a Parquet file, or damaged|cannot read) "):
        load_queries(tmp_path / "damaged.parquet", "train", "run")
    with pytest.raises(DataError, match=r"gone\.parquet: cannot read the data file .* check evaluation\.datasets\.x"):
        load_queries(tmp_path / "gone.parquet", "x", "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: datasets cannot read the folder .* check data\.held_out"):
        load_queries(tmp_path / "empty", "held_out", "run")
    data_files(tmp_path / "broken", ROWS)
    (tmp_path / "broken" / "train.jsonl").write_text('{"problem": "a", "answer": "1"}\n{"problem"\n')
    with pytest.raises(DataError, match="broken: datasets cannot read the folder"):
        load_queries(tmp_path / "broken", "train", "run")


def test_names_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded: what can be said without a network is said, and in one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for name in ("hf:owner/no-such-set", "hf:owner/no-such-set:train", "hf:owner/no-such-set/main:train"):
        with pytest.raises(DataError) as caught:
            load_queries(name, "train", "run")
        assert f"{name}: the Hugging Face Hub cannot be reached" in str(caught.value)
        assert "unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE" in str(caught.value)
        assert "\n" not in str(caught.value)
    for name in ("hf:gsm8k", "hf:json", "hf:a/b/c/d", "hf:a/b:", "hf:../b", "hf:https://host/x"):
        with pytest.raises(DataError, match="write hf:owner/name"):
            load_queries(name, "train", "run")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    with pytest.raises(DataError, match="there is a folder owner/name here"):
        load_queries("hf:owner/name", "train", "run")


def test_a_name_on_the_hub_is_loaded_with_its_configuration_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one fake: `load_dataset` itself, which needs a network to load anything by name."""
    asked: list[object] = []

    def load_dataset(*arguments: object) -> Any:
        asked.append(arguments)
        return datasets.DatasetDict(
            {"test": datasets.Dataset.from_list(GSM8K), "train": datasets.Dataset.from_list([])}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    columns = ColumnsConfig(problem="question", answer_pattern="#### (.+)")
    queries = load_queries("hf:openai/gsm8k/main:test", "gsm8k", "run", columns=columns)
    assert asked == [("openai/gsm8k", "main")]
    assert [query.gold for query in queries] == ["10", "1,100"]
    assert queries[1].source == "hf:openai/gsm8k/main:test:2"
    with pytest.raises(DataError, match=r"hf:openai/gsm8k: it has several splits \(test, train\)"):
        load_queries("hf:openai/gsm8k", "gsm8k", "run")
