"""The command line as its user meets it: a process, its exit code, and what it prints."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tapo_core.cli.called import command_line

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "nano_tapo.toml"


def tapo(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from tapo_core.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Overrides that point at a small data set and at no model."""
    path = tmp_path / "queries.jsonl"
    rows = [{"problem": f"{i} + 1?", "answer": str(i + 1)} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = tmp_path / "model"
    model.mkdir()
    return [f"data.train={path}", f"data.held_out={path}", f"model.path={model}"]


def train(tmp_path: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    options = [option for setting in settings for option in ("--set", setting)]
    return tapo("train", CONFIG, *options, cwd=tmp_path)


def check_refused(done: subprocess.CompletedProcess[str], tmp_path: Path, says: str) -> None:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert says in lines[-1]
    assert lines[-1].startswith("tapo: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "nano-tapo").exists(), "nothing may be half-written"


def test_an_unknown_key(tmp_path: Path) -> None:
    done = train(tmp_path, "update.learning_rat=1")
    check_refused(done, tmp_path, "unknown key update.learning_rat (did you mean update.learning_rate?)")


def test_a_missing_config_file(tmp_path: Path) -> None:
    check_refused(tapo("train", "nowhere.toml", cwd=tmp_path), tmp_path, "nowhere.toml: cannot read")


def test_bad_data_models_and_folders_stop_the_flow_in_one_line(tmp_path: Path, data: list[str]) -> None:
    check_refused(train(tmp_path, *data, "data.train=gone.jsonl"), tmp_path, "gone.jsonl: cannot read the data file")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"problem": "1 + 1?", "answer": "2"}\n{"problem"\n')
    check_refused(train(tmp_path, *data, f"data.train={bad}"), tmp_path, f"{bad}:2: not valid JSON")
    bad.write_text('{"problem": "1 + 1?", "answer": ""}\n')
    check_refused(train(tmp_path, *data, f"data.train={bad}"), tmp_path, f"{bad}:1: the answer is empty")
    check_refused(train(tmp_path, *data), tmp_path, "config.json is missing")
    file = tmp_path / "file"
    file.write_text("")
    done = train(tmp_path, *data, f"run.output_dir={file}")
    check_refused(done, tmp_path, f"{file}/nano-tapo: cannot be a folder")


def test_bad_usage_is_exit_code_2(tmp_path: Path) -> None:
    assert tapo("train", cwd=tmp_path).returncode == 2
    assert tapo("nonsense", cwd=tmp_path).returncode == 2


def test_data_shows_what_a_configuration_names_and_writes_nothing(tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl"
    bench.write_text('{"question": "Start with 1. Add 2.", "answer": "so #### 3"}\n')
    queries = tmp_path / "queries.jsonl"
    rows = [{"problem": f"Start with {i}. Add 2 ;", "answer": str(i + 2), "level": i % 2} for i in range(30)]
    queries.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"problem": "?", "answer": ""}\n')
    columns = '{problem="question", answer_pattern="#### (.+)"}'
    settings = [
        f"data.train={queries}",
        "data.skip_bad_rows=true",
        f'evaluation.datasets={{bench={{path="{bench}", columns={columns}}}}}',
    ]
    before = sorted(tmp_path.rglob("*"))
    done = tapo("data", CONFIG, *(part for setting in settings for part in ("--set", setting)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    lines = [" ".join(line.replace("│", " ").split()) for line in done.stdout.splitlines()]
    assert f"train {queries} 30 1 0: 15, 1: 15" in lines
    assert "held_out nano 80 0 chain: 80 3: 80" in lines
    assert f"bench {bench} 1 0" in lines
    assert f"skipped in train: {queries}:31: the answer is empty; every row needs a gold answer" in lines
    assert "bench: 1 exact, 0 near" in lines
    assert "held_out: 0 exact, 0 near" in lines
    assert lines[-4:] == [
        "exact 100.0",
        f"{queries}:2: Start with 1. Add 2 ;",
        f"{bench}:1: Start with 1. Add 2.",
        "Training queries that are duplicates of an earlier one: 0 exact, 0 near",
    ]
    check_refused(
        tapo("data", CONFIG, "--set", "data.train=gone", cwd=tmp_path), tmp_path, "gone: cannot read the data"
    )


def test_data_lists_bad_rows_before_it_refuses_them(tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    rows = [{"problem": f"Start with {i}. " + "Add 1. " * 500 * (i % 5 == 0), "answer": str(i)} for i in range(20)]
    lines = [*map(json.dumps, rows), "{"]
    queries.write_text("\n".join(lines), encoding="utf-8-sig")
    before = sorted(tmp_path.rglob("*"))
    done = tapo("data", CONFIG, "--set", f"data.train={queries}", "--set", "data.held_out=nano", cwd=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert "│      16 │   5 │" in done.stdout
    listed = [line.partition(" tokens, ")[0] for line in done.stdout.splitlines() if line.startswith("bad in ")]
    assert [line.partition(": the prompt")[0] for line in listed[1:]] == [
        f"bad in train: {queries}:{row}" for row in (1, 6, 11, 16)
    ]
    assert f"{queries}:21: not valid JSON" in listed[0]
    assert all(1500 < int(line.rpartition(" ")[2]) < 2500 for line in listed[1:]), listed
    check_refused(done, tmp_path, f"tapo: 5 bad rows, the first 3: {queries}:21: not valid JSON")
    assert done.stderr.strip().endswith("; mend the data, or set data.skip_bad_rows = true to leave bad rows out")


def test_data_says_that_it_did_not_check_lengths_without_a_tokenizer(tmp_path: Path, data: list[str]) -> None:
    done = tapo("data", CONFIG, *(part for setting in data for part in ("--set", setting)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (told,) = [line for line in done.stdout.splitlines() if "not checked" in line]
    assert told.startswith(f"The lengths of the prompts were not checked: {tmp_path}/model: no Hugging Face checkpoint")


def test_sql_and_lineage_without_a_run_say_so(tmp_path: Path) -> None:
    check_refused(tapo("sql", "SELECT 1", cwd=tmp_path), tmp_path, "no run under runs/")
    check_refused(tapo("lineage", "3abc1ac8", "--run", "x", cwd=tmp_path), tmp_path, "no run in x")
    check_refused(tapo("resume", "x", cwd=tmp_path), tmp_path, "no run in x")
    check_refused(tapo("resume", "x", "--from", "verify", cwd=tmp_path), tmp_path, "no run in x")


def test_what_a_user_is_told_to_type_can_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "an environment" / "tapo"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    monkeypatch.setenv("PATH", "/usr/bin")
    assert command_line("resume", "runs/my run") == f"'{program}' resume 'runs/my run'"
    monkeypatch.setenv("PATH", str(program.parent))
    assert command_line("resume", "runs/my run") == "tapo resume 'runs/my run'"
    assert command_line("train", "c.toml", overrides=["a=1", "b=x y"]) == "tapo train c.toml --set a=1 --set 'b=x y'"


def test_help_is_quick_to_import_and_names_the_commands_of_the_readme(tmp_path: Path) -> None:
    done = tapo("--help", cwd=tmp_path)
    assert done.returncode == 0
    readme = (ROOT / "README.md").read_text()
    used = set(re.findall(r"\.venv/bin/tapo ([\w-]+)", readme)) | {"demo"}
    assert used == set(re.findall(r"^\s+([\w-]+)\s{2,}", done.stdout.split("Commands:")[1], re.MULTILINE))
    code = (
        "import sys, tapo_core.cli.main; print([m for m in ('torch', 'prefect', 'duckdb', 'vllm') if m in sys.modules])"
    )
    light = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert light.stdout.strip() == "[]"
