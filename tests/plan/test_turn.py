"""The plan says what ends a turn, and what a run would refuse to begin with."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tapo_core.cli.main import app
from tapo_core.nano.config import NanoConfig
from tapo_core.nano.model import model_config
from tapo_core.nano.tokenizer import CHAT_TEMPLATE, END, END_ID, build_tokenizer
from tapo_core.plan.turn import NANO_END


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The built-in model without weights, with two eos tokens, as Gemma 3 has them."""
    model_config(NanoConfig()).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    return tmp_path


def plan(tmp_path: Path, model: Path | str, *settings: str) -> tuple[dict[str, str], list[str]]:
    """What the section about turns says, and the problems."""
    config = tmp_path / "config.toml"
    config.write_text(f'[run]\nname = "a"\noutput_dir = "{tmp_path}"\n[model]\npath = "{model}"\n')
    overrides = [option for setting in settings for option in ("--set", setting)]
    answer = CliRunner().invoke(app, ["plan", str(config), "--json", *overrides])
    made: dict[str, Any] = json.loads(answer.stdout)
    assert answer.exit_code == int(bool(made["problems"]))
    return {row["what"]: row["value"] for row in made["sections"]["Turns"]}, [p["text"] for p in made["problems"]]


def test_the_tokens_and_the_date_are_shown(tmp_path: Path, model: Path) -> None:
    shown, problems = plan(tmp_path, model)
    assert problems == []
    assert shown == {
        "ends a turn": "'<|im_end|>' (2), '<|endoftext|>' (0)",
        "end-of-turn token": "'<|im_end|>' (2)",
        "the template closes a turn with": "'<|im_end|>\\n'",
        "date": "none",
        "positions": 1024,
    }
    (model / "chat_template.jinja").write_text("{{ strftime_now('%Y') }}" + CHAT_TEMPLATE)
    shown, _ = plan(tmp_path, model)
    assert len(shown["date"].split("-")) == 3


def test_what_a_run_would_refuse_does_not_fit(tmp_path: Path, model: Path) -> None:
    _, (problem,) = plan(tmp_path, model, "sampler.max_model_len=2048")
    assert "1024 positions" in problem
    (model / "chat_template.jinja").write_text("{{ raise_exception('No.') }}")
    _, (problem,) = plan(tmp_path, model)
    assert "the chat template refuses" in problem
    (model / "tokenizer.json").unlink()
    (model / "tokenizer_config.json").unlink()
    shown, problems = plan(tmp_path, model)
    assert (shown["ends a turn"], problems) == (None, []), "sizes alone can be planned"


def test_the_built_in_model_need_not_be_made(tmp_path: Path) -> None:
    shown, _ = plan(tmp_path, "nano")
    assert shown["ends a turn"] == NANO_END == f"{END!r} ({END_ID})"
