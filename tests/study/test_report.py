"""From finished runs to the record, and from the record to tables and figures."""

from pathlib import Path

import pyarrow.parquet
import pytest

from tapo_core.errors import DataError, UserError
from tapo_core.study.config import load_study
from tapo_core.study.measure import measure
from tapo_core.study.plan import plan_runs
from tapo_core.study.record import Record, merged, read_record, write_record
from tapo_core.study.report import section, split_page, write_report
from tests.study.conftest import Made
from tests.study.made_runs import make_run

ROOT = Path(__file__).resolve().parents[2]
EMPTY = Record([], [], [])


@pytest.fixture
def record(made: Made) -> Record:
    return merged(EMPTY, [measure(run) for run in made[1]])[0]


def test_what_is_measured_is_what_the_runs_did(made: Made) -> None:
    tapo = measure(made[1][0])
    assert tapo.run["run"] == "chain-cold-tapo-s0"
    assert (tapo.run["iterations"], tapo.run["tapo_version"]) == (2, "1.2.3")
    assert len(tapo.problems) == 3 * 4
    after = [row for row in tapo.problems if row["iteration"] == 2]
    assert sorted(row["n_correct"] for row in after) == [0, 0, 4, 4]
    assert {(row["n"], row["n_reflecting"]) for row in after} == {(4, 1)}
    assert sorted(row["n_correct_reflecting"] for row in after) == [0, 0, 1, 1]
    assert [row["generated_tokens"] for row in tapo.curves] == [20, 40], "rollouts, located errors, constructions"
    assert [row["loss"] for row in tapo.curves] == [0.5, 1.0]
    assert [row["accuracy"] for row in tapo.curves] == [0.25, 0.5]
    assert tapo.curves[0]["mean_ots_weight"] is None
    assert [row["generated_tokens"] for row in measure(made[1][1]).curves] == [15, 30, 45]


def test_a_record_comes_back_as_it_was_written(tmp_path: Path, record: Record) -> None:
    folder = tmp_path / "new" / "record"
    assert read_record(folder) == EMPTY
    write_record(folder, record)
    assert read_record(folder) == record
    assert sorted(path.name for path in folder.iterdir()) == ["curves.parquet", "problems.parquet", "runs.parquet"]
    write_record(folder, EMPTY)
    assert read_record(folder) == EMPTY


def test_a_damaged_record_is_named(tmp_path: Path, record: Record) -> None:
    write_record(tmp_path / "r", record)
    file = tmp_path / "r" / "curves.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(file).drop_columns(["loss"]), file)
    with pytest.raises(DataError, match=r"curves\.parquet: columns .* are not those of this version"):
        read_record(tmp_path / "r")
    file.unlink()
    with pytest.raises(DataError, match=r"curves\.parquet: cannot be read"):
        read_record(tmp_path / "r")


def test_runs_are_merged_one_by_one(made: Made, record: Record) -> None:
    one = measure(made[1][0])
    part = record.only({"chain-cold-grpo-s1"})
    both, notes = merged(part, [one])
    assert ([row["run"] for row in both.runs], notes) == (["chain-cold-grpo-s1", "chain-cold-tapo-s0"], [])
    assert merged(both, [one]) == (both, []), "again changes nothing"
    longer = [row | {"iterations": 9} if row["run"] == "chain-cold-tapo-s0" else row for row in both.runs]
    further = Record(longer, both.problems, both.curves)
    assert merged(further, [one]) == (further, []), "the longer run stays"
    one.run["settings_digest"] = "other"
    other, notes = merged(further, [one])
    assert [row["settings_digest"] for row in other.runs if row["run"] == "chain-cold-tapo-s0"] == ["other"]
    assert notes == ["chain-cold-tapo-s0: replaces a run with other settings in the record"]


def test_tables_by_hand(made: Made, record: Record) -> None:
    study, runs = made
    text = section(study, runs, record)
    lines = text.splitlines()
    assert lines[1].startswith("4 of 4 runs, seeds 0, 1, 4 held-out problems with 4 samples each; ")
    assert "**chained arithmetic, cold**, after 2 iterations:" in lines

    def values(start: str) -> list[str]:
        """The cells of the table's row, without intervals."""
        (line,) = (line for line in lines if line.startswith(start))
        return [cell.partition(" (")[0].strip() for cell in line.removeprefix(start).strip("| ").split("|")]

    assert values("| before training |") == ["2", "12.5", "12.5", "75.0", "12.5", "0"]
    assert values("| TAPO |") == ["2", "62.5", "62.5", "75.0", "62.5", "40"]
    assert values("| GRPO |") == ["2", "31.2", "62.5", "100.0", "0.0", "25"]
    steps, tokens = text.split("**TAPO less GRPO, at equal generated tokens** (points):")
    rows = [line for line in steps.splitlines() if line.startswith("| chained arithmetic | cold | ")]
    cells = [[cell.partition(" (")[0].strip() for cell in row.strip("| ").split("|")][2:] for row in rows]
    assert cells == [
        ["pass@1", "+31.2", "0.500", "+25.0, +37.5", "0, 1"],
        ["pass@4", "+0.0", "1.000", "+0.0, +0.0", "0, 1"],
        ["DSR", "-25.0", "0.500", "-25.0, -25.0", "0, 1"],
        ["ERR", "+62.5", "0.500", "+50.0, +75.0", "0, 1"],
    ]
    assert "| chained arithmetic | cold | pass@1 | +12.5 " in tokens, "50 to 37.5 after GRPO's third iteration"
    assert "| +12.5 | 0 | 3 |" in tokens
    assert "chained arithmetic, cold: not reached with seeds 1." in tokens
    assert "chained arithmetic, cold: the two runs of seeds 1 did not begin alike" in steps, (
        "25% and 12.5%, seed 0 with 0%"
    )
    assert "did not begin alike" not in tokens


def test_what_has_other_settings_or_nothing_to_stand_on_is_said(made: Made, record: Record) -> None:
    study, runs = made
    assert "No run of this study is in its record yet." in section(study, runs, EMPTY)
    assert "1 runs of the record are left out" in section(study, runs[1:], record)
    changed = [row | {"settings_digest": "x"} for row in record.runs]
    text = section(study, runs, Record(changed, record.problems, record.curves))
    assert "4 runs of the record are left out" in text
    assert "No run of this study is in its record yet." in text
    silent = [row | {"n_reflecting": 0, "n_correct_reflecting": 0} for row in record.problems]
    text = section(study, runs, Record(record.runs, silent, record.curves))
    assert "| ERR | \N{EM DASH} | \N{EM DASH} | \N{EM DASH} | 0, 1 |" in text
    few = [row | {"n": 3, "n_correct": min(row["n_correct"], 3)} for row in record.problems]
    assert "| pass@4 | \N{EM DASH} |" in section(study, runs, Record(record.runs, few, record.curves))


def test_the_page_gets_its_section_and_keeps_the_rest(tmp_path: Path, made: Made, record: Record) -> None:
    study, runs = made
    page = tmp_path / "docs" / "results.md"
    own = {"record": tmp_path / "record", "page": page}
    study = study.model_copy(update={"study": study.study.model_copy(update=own)})
    write_record(study.record, record)
    with pytest.raises(UserError, match=r"results\.md: cannot be read"):
        write_report(study, runs)
    page.parent.mkdir()
    page.write_text("# Results\n")
    with pytest.raises(UserError, match=r"<!-- study:made begin --> and .* have to be in it once"):
        write_report(study, runs)
    page.write_text("# Results\n\n<!-- study:made begin -->\nwhat was\n<!-- study:made end -->\n\nmore\n")
    assert write_report(study, runs) == page
    text = page.read_text()
    assert text.startswith("# Results\n\n<!-- study:made begin -->\n4 of 4 runs")
    assert text.endswith("<!-- study:made end -->\n\nmore\n")
    assert "what was" not in text
    picture = page.parent / "images" / "study-made-chain-cold.svg"
    assert f"]({picture.relative_to(page.parent)})" in text
    drawn = picture.read_bytes()
    assert drawn.count(b"policy-gradient loss") == 1
    write_report(study, runs)
    assert (page.read_text(), picture.read_bytes()) == (text, drawn), "the same record, the same files"


def test_a_run_of_an_older_version_does_not_tell_its_tokens(tmp_path: Path, made: Made) -> None:
    run = made[1][1]
    config = run.config.model_copy(update={"run": run.config.run.model_copy(update={"output_dir": tmp_path})})
    older = type(run)(run.family, run.policy, run.variant, run.seed, config, run.tree)
    make_run(older)
    ledger = older.folder / "store" / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"n_tokens"', '"n_other"'))
    with pytest.raises(UserError, match="stage sample of iteration 1 does not say how many tokens were generated"):
        measure(older)


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "studies").glob("*.toml")), ids=lambda p: p.name)
def test_a_page_of_this_repository_is_what_its_record_gives(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(file)
    if study.study.page is None:
        assert study.study.record is None, "a record that is kept is shown on a page"
        return
    _, there, _ = split_page(study.page, study)
    expected = section(study, plan_runs(study, str(file)), read_record(study.record))
    assert there == expected, f"run `tapo study {file.relative_to(ROOT)} --report`"
