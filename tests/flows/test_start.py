"""The start stage: what is skipped, found and dropped is counted, told and stored, and a second start changes nothing."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from tapo_core.assets import resolve_assets
from tapo_core.config import TapoConfig
from tapo_core.errors import DataError, RunLockedError, UserError
from tapo_core.progress import LogReporter, reporting
from tapo_core.records import Query, QueryOverlap
from tapo_core.session import Session
from tapo_core.stages.start import start
from tapo_core.store import StageCommit, load, verified_commits
from tests.flows.conftest import Configure

PROBLEM = "Start with {}. Add {}. What is the result?"


class Notes(LogReporter):
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Overrides: 12 training queries, of which one is in the held-out set and, differently written, in a benchmark."""

    def write(name: str, rows: list[dict[str, str]], *lines: str) -> Path:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join([*map(json.dumps, rows), *lines]), encoding="utf-8")
        return path

    rows = [{"problem": PROBLEM.format(n, 9), "answer": str(n + 9)} for n in range(12)]
    train = write("train", rows)
    held_out = write("held_out", [{"problem": "start with $3$; add $9$: what is the result", "answer": "12"}])
    benchmark = write("benchmark", [rows[3], {"problem": PROBLEM.format(3, 8), "answer": "11"}])
    datasets = f'evaluation.datasets={{bench="{benchmark}"}}'
    return [f"data.train={train}", f"data.held_out={held_out}", datasets, "evaluation.queries=1"]


def started(config: TapoConfig) -> tuple[StageCommit, list[str]]:
    notes = Notes()
    with reporting(notes), closing(Session(config, resolve_assets(config))) as session:
        commit = start(session)
    return commit, notes.told


def test_duplicates_are_reported(configure: Configure, data: list[str]) -> None:
    config = configure("report", *data)
    commit, told = started(config)
    queries = {query.query_id: query for query in load(config.run_folder, Query)}
    rows = load(config.run_folder, QueryOverlap)
    assert len(queries) == 12 + 1 + 2
    assert sorted((row.other_split, row.kind.value, row.similarity, row.dropped) for row in rows) == [
        ("bench", "exact", 100.0, False),
        ("held_out", "exact", 100.0, False),
    ]
    for row in rows:
        assert row.query_id is not None
        assert queries[row.query_id].text == row.text == PROBLEM.format(3, 9)
        assert queries[row.query_id].source == row.source
        assert queries[row.other_query_id].split == row.other_split
    counts = {key: commit.manifest[key] for key in commit.manifest if key.startswith("n_")}
    assert counts == {
        "n_queries": 15,
        "n_skipped_rows": {},
        "n_overlaps": 2,
        "n_overlapping_train_queries": 1,
        "n_dropped": 0,
        "n_repeats_within_train": 0,
    }
    assert told == [
        "train: 1 queries are duplicates of held-out queries or benchmarks and were kept (data.decontaminate); "
        "see table query_overlap"
    ]


def test_duplicates_are_dropped_and_a_second_start_changes_nothing(configure: Configure, data: list[str]) -> None:
    config = configure("drop", *data, "data.decontaminate=drop", "data.queries_per_iteration=11")
    commit, told = started(config)
    texts = [query.text for query in load(config.run_folder, Query, split="train")]
    assert len(texts) == 11
    assert PROBLEM.format(3, 9) not in texts
    rows = load(config.run_folder, QueryOverlap)
    assert {(row.query_id, row.text, row.source.rpartition("/")[2], row.dropped) for row in rows} == {
        (None, PROBLEM.format(3, 9), "train.jsonl:4", True)
    }
    assert (commit.manifest["n_dropped"], commit.manifest["n_queries"]) == (1, 14)
    assert "were dropped" in told[0]
    again, told_again = started(config)
    assert again == commit
    assert told_again == []
    assert len(verified_commits(config.run_folder)) == 1
    path = Path(config.data.train)
    path.write_text(path.read_text().replace("Start with 3.", "Start with 33."))
    with pytest.raises(UserError, match="was made from other inputs"):
        started(config)


def test_too_few_queries_after_dropping_leave_nothing_behind(configure: Configure, data: list[str]) -> None:
    config = configure("few", *data, "data.decontaminate=drop", "data.queries_per_iteration=12")
    with pytest.raises(DataError, match=r"11 queries after 1 duplicates of held-out .* were dropped, fewer than"):
        started(config)
    assert not config.run_folder.exists()


def test_nothing_is_looked_for_when_off_and_the_built_in_data_do_not_overlap(
    configure: Configure, data: list[str]
) -> None:
    off = configure("off", *data, "data.decontaminate=off")
    commit, told = started(off)
    assert (commit.manifest["decontaminate"], told, load(off.run_folder, QueryOverlap)) == ("off", [], [])
    assert "n_overlaps" not in commit.manifest, "not looked for is not none found"
    built_in, told = started(configure("built-in"))
    assert (built_in.manifest["n_overlaps"], built_in.manifest["n_repeats_within_train"], told) == (0, 0, [])


def test_skipped_rows_are_counted_and_told(configure: Configure, data: list[str]) -> None:
    path = Path(data[0].partition("=")[2])
    path.write_text(path.read_text() + '\n{"problem": "?", "answer": ""}\n{"problem"\n')
    with pytest.raises(DataError, match=r"train\.jsonl:13: the answer is empty"):
        started(configure("strict", *data))
    commit, told = started(configure("skipping", *data, "data.skip_bad_rows=true", "data.decontaminate=off"))
    assert commit.manifest["n_skipped_rows"] == {"train": 2}
    assert told == [
        f"train: 2 bad rows were skipped (data.skip_bad_rows); the first: {path}:13: the answer is empty; "
        "every row needs a gold answer"
    ]


def test_rows_that_are_too_long_are_bad_rows(configure: Configure, data: list[str]) -> None:
    path = Path(data[0].partition("=")[2])
    long = [json.dumps({"problem": "Add 1. " * 500 + str(n), "answer": "1"}) for n in range(4)]
    path.write_text("\n".join([*long, path.read_text()]))
    with pytest.raises(
        DataError, match=r"4 bad rows, the first 3: .*train\.jsonl:1: the prompt has \d+ tokens, more than"
    ):
        started(configure("strict", *data))
    skipping = configure("skipping", *data, "data.skip_bad_rows=true", "data.decontaminate=off")
    commit, told = started(skipping)
    assert commit.manifest["n_skipped_rows"] == {"train": 4}
    assert len(load(skipping.run_folder, Query, split="train")) == 12
    assert len(told) == 1
    assert told[0].startswith(
        f"train: 4 bad rows were skipped (data.skip_bad_rows); the first: {path}:1: the prompt has "
    )
    assert started(skipping) == (commit, [])
    # What is left has to suffice, and a benchmark is whole.
    with pytest.raises(
        DataError, match=r"12 queries after 4 bad rows were skipped \(the first: .*train\.jsonl:1: .*\), fewer than"
    ):
        started(configure("few", *data, "data.skip_bad_rows=true", "data.queries_per_iteration=16"))
    for split, says in (("held_out", "every row is bad"), ("bench", "a benchmark is read whole or not at all")):
        file = path.with_name({"held_out": "held_out", "bench": "benchmark"}[split] + ".jsonl")
        before = file.read_text()
        file.write_text(long[0])
        with pytest.raises(DataError, match=says):
            started(configure(split, *data, "data.skip_bad_rows=true"))
        file.write_text(before)


def test_golds_that_are_left_out_may_leave_too_few(configure: Configure, data: list[str]) -> None:
    path = Path(data[0].partition("=")[2])
    path.write_text(path.read_text().replace('"answer": "20"', '"answer": "no number at all"'))
    settings = ["data.skip_bad_rows=true", "data.decontaminate=off", "data.queries_per_iteration=12"]
    with pytest.raises(DataError, match=r"11 queries after 1 bad rows were skipped \(the first: .*train\.jsonl:12"):
        started(configure("few", *data, *settings))


def test_a_chat_template_with_a_byte_order_mark_is_refused(configure: Configure, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(resolve_assets(configure("any")).model, model)
    template = model / "chat_template.jinja"
    template.write_bytes(b"\xef\xbb\xbf" + template.read_bytes())
    with pytest.raises(
        UserError, match="the chat template begins with a byte-order mark, which would be the beginning"
    ):
        started(configure("marked", f"model.path={model}"))


def test_two_cannot_work_on_one_run(configure: Configure, data: list[str]) -> None:
    config = configure("one", *data)
    assets = resolve_assets(config)
    with closing(Session(config, assets)) as first, closing(Session(config, assets)) as second:
        begun = start(first)
        with pytest.raises(RunLockedError, match="works on this run"):
            start(second)
        first.close()
        assert start(second) == begun
