"""Which runs are made, and what becomes of those that fail."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tapo_core.cli.main import app
from tapo_core.cli.study import StudyError, recorded
from tapo_core.errors import ConfigError, RunLockedError, UserError
from tapo_core.locks import take_lock
from tapo_core.study import runner
from tapo_core.study.config import load_study
from tapo_core.study.plan import plan_runs
from tapo_core.study.record import read_record
from tapo_core.study.runner import State, iterations_of, make_runs, minutes_of, refuse_other_settings, state_of
from tests.study.conftest import Made
from tests.study.made_runs import STUDY, make_run, write_study


def study_command(file: Path, *options: str) -> Result:
    """`tapo study`, in this process; its runs have processes of their own."""
    return CliRunner().invoke(app, ["study", str(file), *options])


def test_how_far_a_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_study(tmp_path)
    new, begun, done, _ = plan_runs(load_study(file), str(file))
    make_run(begun, iterations=1)
    make_run(done)
    assert [state_of(run) for run in (new, begun, done)] == [State.NEW, State.UNFINISHED, State.DONE]
    assert [iterations_of(run) for run in (new, begun, done)] == [0, 1, 2]
    assert (minutes_of(done.folder) or -1) > 0
    refuse_other_settings([new, begun, done])
    longer = write_study(tmp_path, STUDY.replace("steps = 2", "steps = 4"))
    again = plan_runs(load_study(longer), str(longer))
    assert state_of(again[2]) is State.UNFINISHED, "the same run goes on"
    other = write_study(tmp_path, STUDY.replace('name = "made"', 'name = "made"\nset.update.epochs = 9'))
    runs = plan_runs(load_study(other), str(other))
    assert [state_of(run) for run in runs[:3]] == [State.NEW, State.OTHER, State.OTHER]
    with pytest.raises(ConfigError, match=r"2 runs were made with another configuration.*grpo-s0 .*tapo-s1; move"):
        refuse_other_settings(runs)


def test_what_is_done_is_not_done_again(made: Made) -> None:
    study, runs = made
    told: list[str] = []
    assert make_runs(runs, study.folder, 1, told.append) == []
    assert told == []
    assert not (study.folder / "configs").exists()


def test_a_run_that_fails_is_reported_and_the_others_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAPO_CACHE", str(tmp_path / "cache"))
    file = write_study(tmp_path, STUDY.replace("seeds = [0, 1]", "seeds = [0]\nset.data.train = 'gone.jsonl'"))
    tapo, grpo = plan_runs(load_study(file), str(file))
    make_run(tapo)
    done = study_command(file)
    assert isinstance(done.exception, StudyError), done.output
    assert str(done.exception) == "1 runs failed; the same command tries them again"
    assert "1/1 chain-cold-grpo-s0: FAILED (exit code 2), see runs/made/logs/chain-cold-grpo-s0.log" in done.stdout
    assert "gone.jsonl: cannot read the data file" in " ".join(done.stderr.split())
    assert not (tmp_path / "cache").exists(), "that the file is gone is told before a model is built"
    assert "1 of 2 runs, seeds 0" in (tmp_path / "runs" / "made" / "results.md").read_text()
    assert not grpo.folder.exists() or state_of(grpo) is State.NEW
    listed = study_command(file, "--list", "--format", "csv").stdout.splitlines()
    assert listed[1].startswith("chain-cold-tapo-s0,done,2,2,")
    assert listed[2] == "chain-cold-grpo-s0,new,0,3,"
    assert listed[-1].startswith("1 of 2 runs are done; at ")


def test_report_runs_nothing_and_bad_usage_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_study(tmp_path)
    reported = study_command(file, "--report")
    assert (reported.exit_code, reported.stdout) == (0, "runs/made/results.md\n"), reported.output
    assert "No run of this study is in its record yet." in (tmp_path / "runs" / "made" / "results.md").read_text()
    assert not (tmp_path / "runs" / "made" / "configs").exists()
    for options, says in (
        (["--report", "--list"], "leave out --list, --only and --missing"),
        (["--list", "--missing"], "leave out --missing"),
        (["--only", "nothing*"], "no run is called like that"),
    ):
        refused = study_command(file, *options)
        assert isinstance(refused.exception, UserError)
        assert says in str(refused.exception)


def test_missing_leaves_out_what_is_in_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_study(tmp_path)
    runs = plan_runs(load_study(file), str(file))
    for run in runs:
        make_run(run)
    assert study_command(file).exit_code == 0
    for run in runs:
        shutil.rmtree(run.folder)
    made = study_command(file, "--missing")
    assert made.stdout.splitlines()[0] == "4 runs are in the record, 0 are not"
    assert made.exit_code == 0
    assert not any(run.folder.exists() for run in runs)
    record = read_record(load_study(file).record)
    assert len(record.runs) == 4, "the record has kept what is gone"
    longer = write_study(tmp_path, STUDY.replace("steps_factor = 1.5", "steps_factor = 2.5"))
    others = plan_runs(load_study(longer), str(longer))
    assert recorded(others, record) == {run.name for run in others if run.variant == "tapo"}
    other = write_study(tmp_path, STUDY.replace('name = "made"', 'name = "made"\nset.update.epochs = 9'))
    assert recorded(plan_runs(load_study(other), str(other)), record) == set()


def test_one_process_makes_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_study(tmp_path)
    folder = tmp_path / "runs" / "made"
    folder.mkdir(parents=True)
    unlock = take_lock(folder / "study.lock", "{}")
    try:
        refused = study_command(file)
    finally:
        unlock()
    assert isinstance(refused.exception, RunLockedError)
    assert "makes this study" in str(refused.exception)


def test_runs_end_with_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_study(tmp_path)
    began: list[subprocess.Popen[bytes]] = []
    start = runner._begin

    def begin(*arguments: Any) -> Any:
        job = start(*arguments)
        began.append(job.process)
        if len(began) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return job

    monkeypatch.setattr(runner, "_begin", begin)
    file.write_text(file.read_text().replace("steps = 2", "steps = 2\nparallel = 2"))
    interrupted = study_command(file, "--only", "*-s0")
    assert isinstance(interrupted.exception, KeyboardInterrupt | SystemExit)
    assert f"go on with: tapo study {file} --only '*-s0'" in interrupted.stderr
    assert [process.poll() is not None for process in began] == [True, True]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
