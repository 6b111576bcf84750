"""What ends a turn, and what a prompt says, through whole runs on variants of the built-in model that real ones are like."""

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from flows.cold_start import cold_start
from flows.train import train
from tapo_core.assets import resolve_assets
from tapo_core.chat import Chat
from tapo_core.config import SamplerConfig, TapoConfig
from tapo_core.engines.protocols import PolicyRef, SampleRequest
from tapo_core.engines.streaming import make_sampler
from tapo_core.errors import UserError
from tapo_core.iteration_report import iteration_report
from tapo_core.nano.tokenizer import CHAT_TEMPLATE, END_ID, PAD_ID
from tapo_core.progress import reporting
from tapo_core.records import Correction, FinishReason, Rollout, RolloutTokens, TokenRole, Turn
from tapo_core.replay import replay
from tapo_core.session import Session
from tapo_core.stages.start import start
from tapo_core.store import Record, StageCommit, load, query, verified_commits
from tests.flows.conftest import Configure, StopAt

#: As many texts as show what is meant.
SMALL = ["data.queries_per_iteration=4", "sampler.rollouts_per_query=4", "evaluation.queries=4", "evaluation.samples=2"]
GRPO = ['method="grpo"', *SMALL]

EOS_LIST = {"eos_token_id": [0, 2]}
OTHER_EOS = {"eos_token_id": 0}
CLOCK = "{{- '<|im_start|>system\\nNow: ' + strftime_now('%d %b %H:%M:%S') + '<|im_end|>\\n' -}}" + CHAT_TEMPLATE
NEEDS_SYSTEM = (
    "{%- if messages[0].role != 'system' and not about -%}{{ raise_exception('A system message is needed') }}{%- endif -%}"
) + CHAT_TEMPLATE
#: tokenizer_config.json, generation_config.json, config.json, chat template: what differs from the built-in model.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "like Gemma 3 and Phi-3": ({"eos_token": "<|endoftext|>"}, EOS_LIST, EOS_LIST, CHAT_TEMPLATE),
    "like Qwen2.5, as it came out": ({}, OTHER_EOS, OTHER_EOS, CHAT_TEMPLATE),
    "like Qwen3 base": ({"eos_token": "<|endoftext|>"}, OTHER_EOS, OTHER_EOS, CHAT_TEMPLATE),
    "no eos token": ({"eos_token": None, "pad_token": None}, {}, {}, CHAT_TEMPLATE),
    "nothing ends a turn": (
        {"eos_token": None},
        {"eos_token_id": None},
        {"eos_token_id": None},
        CHAT_TEMPLATE.replace("'<|im_end|>'", "'</answer>'"),
    ),
    "another model's template": (
        {"eos_token": "<|endoftext|>"},
        OTHER_EOS,
        OTHER_EOS,
        CHAT_TEMPLATE.replace("'<|im_end|>'", "('<|endoftext|>' if message.role == 'assistant' else '<|im_end|>')"),
    ),
    "short": ({}, {}, {"max_position_embeddings": 256}, CHAT_TEMPLATE),
    "needs a system message": ({}, {}, {}, NEEDS_SYSTEM),
    "clock": ({}, {}, {}, CLOCK),
}

Variant = Callable[[str], str]


@pytest.fixture
def variant(configure: Configure, tmp_path: Path) -> Variant:
    """A function that makes a variant of the built-in model; an override that names it."""

    def make(name: str) -> str:
        folder = tmp_path / "models" / name
        shutil.copytree(resolve_assets(configure("built-in")).model, folder)
        *changes, template = VARIANTS[name]
        files = ("tokenizer_config.json", "generation_config.json", "config.json")
        for file, change in zip(files, changes, strict=True):
            values = json.loads((folder / file).read_text()) | change
            (folder / file).write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
        (folder / "chat_template.jinja").write_text(template)
        return f'model.path="{folder}"'

    return make


def last_tokens(config: TapoConfig) -> dict[TokenRole, set[int]]:
    """What the rollouts and corrections that were not cut off, and all constructed trajectories, end with."""
    whole = {row.rollout_id for row in load(config.run_folder, Rollout, finish_reason=FinishReason.STOP)}
    whole |= {row.correction_id for row in load(config.run_folder, Correction, finish_reason=FinishReason.STOP)}
    found: dict[TokenRole, set[int]] = {}
    for row in load(config.run_folder, RolloutTokens):
        if row.subject_id in whole or row.role is TokenRole.CONSTRUCTED:
            found.setdefault(row.role, set()).add(row.token_ids_T[-1])
    return found


def generated(checkpoint: Path, prompt: Sequence[int]) -> list[int]:
    """What transformers' `generate` makes of a prompt when it is told nothing but the prompt."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        ids = model.generate(torch.tensor([list(prompt)]), max_new_tokens=48, do_sample=False)
    return [int(token) for token in ids[0, len(prompt) :]]


def check_published(checkpoint: Path, stop_tokens: list[int], prompt: Sequence[int]) -> None:
    """Every file of a checkpoint names the stop tokens, and `generate` stops at the end of the turn."""
    for file in ("generation_config.json", "config.json"):
        named = json.loads((checkpoint / file).read_text())["eos_token_id"]
        assert (named if isinstance(named, list) else [named]) == stop_tokens, file
    assert AutoTokenizer.from_pretrained(checkpoint).eos_token_id == stop_tokens[0]
    assert generated(checkpoint, prompt)[-1] == END_ID
    assert Chat(checkpoint, {}).stops.tokens == tuple(stop_tokens)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("lora", [0, 4])
def test_rollouts_and_constructed_trajectories_end_alike_and_what_is_published_stops_there(
    configure: Configure, variant: Variant, lora: int
) -> None:
    config = configure("alike", variant("like Gemma 3 and Phi-3"), *SMALL, f"update.lora_rank={lora}")
    train(config)
    (turn,) = load(config.run_folder, Turn)
    assert (turn.stop_tokens, turn.end_token, turn.end_named_by) == ([2, 0], 2, "chat_template")
    assert json.loads(turn.stop_texts) == ["<|im_end|>", "<|endoftext|>"]
    assert json.loads(turn.found_in) == {
        "chat_template": [2],
        "tokenizer": [0],
        "generation_config": [0, 2],
        "config": [0, 2],
    }
    assert last_tokens(config) == {role: {END_ID} for role in TokenRole}
    prompt = load(config.run_folder, RolloutTokens, role=TokenRole.ROLLOUT)[0].prompt_token_ids
    check_published(config.run_folder / "policies" / "000001" / "hf", [2, 0], prompt)
    assert replay(config.run_folder).differences == []


@pytest.mark.usefixtures("prefect_server")
def test_fine_tuning_teaches_one_end_and_publishes_it(configure: Configure, variant: Variant) -> None:
    config = configure("taught", variant("no eos token"), *SMALL, "data.queries_per_iteration=20", "cold_start.n_ift=0")
    cold_start(config)
    prompt = load(config.run_folder, RolloutTokens)[0].prompt_token_ids
    check_published(config.run_folder / "policies" / "000001" / "hf", [END_ID], prompt)


@pytest.mark.parametrize("name", ["like Qwen2.5, as it came out", "like Qwen3 base", "no eos token"])
def test_the_engines_stop_at_the_same_tokens(configure: Configure, variant: Variant, name: str) -> None:
    config = configure("engines", variant(name))
    checkpoint = resolve_assets(config).model
    chat = Chat(checkpoint, {})
    prompts = [chat.prompt(f"Start with {n}. Add {n}. What is the result?") for n in (2, 5, 7)]
    requests = [SampleRequest(prompt, 3, 48, temperature=1e-3, top_p=1.0) for prompt in prompts]
    samples = []
    for engine in ("hf", "vllm"):
        with closing(make_sampler(SamplerConfig(engine=engine), "float32", sleeps=False)) as sampler:
            sampler.load_policy(PolicyRef("p", checkpoint, stop_tokens=chat.stops.tokens))
            samples.append([(s.token_ids_T, s.finish_reason) for s in sampler.sample(requests)])
            # The given set alone counts, whatever the checkpoint's files name.
            sampler.load_policy(PolicyRef("q", checkpoint, stop_tokens=(PAD_ID,)))
            assert {s.finish_reason for s in sampler.sample(requests)} == {FinishReason.LENGTH}
    assert samples[0] == samples[1]
    assert {(ids[-1], reason) for ids, reason in samples[0]} == {(END_ID, FinishReason.STOP)}


@pytest.mark.parametrize(
    ("name", "told", "mended"),
    [
        ("nothing ends a turn", "no token ends a turn", None),
        ("short", "has 256 positions .* set sampler.max_model_len = 256", "sampler.max_model_len=256"),
        ("needs a system message", "the chat template refuses", 'model.chat_template_kwargs={about="maths"}'),
    ],
)
def test_what_a_run_cannot_begin_with_is_one_line_before_anything_is_made(
    configure: Configure, variant: Variant, name: str, told: str, mended: str | None
) -> None:
    model = variant(name)
    config = configure("refused", model, *GRPO)
    with closing(Session(config, resolve_assets(config))) as session, pytest.raises(UserError, match=told) as error:
        start(session)
    assert "\n" not in str(error.value)
    assert not config.run_folder.exists()
    if mended is not None:
        config = configure("refused", model, *GRPO, mended, "correction.max_new_tokens=48")
        with closing(Session(config, resolve_assets(config))) as session:
            assert start(session).stage == "start"


@pytest.mark.usefixtures("prefect_server")
def test_a_policy_that_never_ends_a_turn_is_an_alarm_that_names_the_cause(
    configure: Configure, variant: Variant
) -> None:
    config = configure("endless", variant("another model's template"), *GRPO)
    train(config)
    commits = {(c.iteration, c.stage): c.manifest for c in verified_commits(config.run_folder)}
    (alarm,) = commits[1, "sample"]["alarms"]
    assert commits[1, "sample"]["n_ended"] == 0
    assert "0 of 16 rollouts ended their turn" in alarm
    assert "A turn ends at '<|endoftext|>' (0); the chat template closes one with '<|endoftext|>\\n'" in alarm
    assert "ran on through '<|im_end|>' (2) in 16 of them" in alarm
    assert commits[0, "evaluate"]["alarms"]
    with closing(Session(config, resolve_assets(config))) as session:
        assert "0 of 16 rollouts ended their turn" in iteration_report(session, 1)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("older", [False, True])
def test_a_query_has_one_prompt_in_a_run_whenever_it_is_made(
    configure: Configure, variant: Variant, older: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`older`: the run was begun by a version that stored nothing about turns."""
    commit = Session.commit

    def without_turn(self: Session, *named: Any) -> StageCommit:
        *others, records = named
        kept: list[Record] = [record for record in records if not isinstance(record, Turn)]
        return commit(self, *others, kept)

    if older:
        monkeypatch.setattr(Session, "commit", without_turn)
    config = configure("clock", variant("clock"), *SMALL)
    with reporting(StopAt(1, "diagnose_and_correct")), pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.undo()
    config = configure("clock", f'model.path="{resolve_assets(config).model}"', *SMALL)
    train(config)
    assert len(load(config.run_folder, Turn)) == (0 if older else 1)
    prompts = query(
        config.run_folder,
        "SELECT count(DISTINCT prompt_token_ids) AS n, count(*) AS n_rows FROM rollout_tokens "
        "JOIN rollout ON rollout.rollout_id = subject_id GROUP BY query_id",
    )
    assert set(prompts["n"]) == {1}
    dates = {
        Chat(resolve_assets(config).model, {}).transcript(row.prompt_token_ids).split("<|im_end|>")[0]
        for row in load(config.run_folder, RolloutTokens)
    }
    assert len(dates) == 1, "prompts of corrections have the same date"
    found = replay(config.run_folder)
    assert found.differences == []
    assert found.rows["rollout_tokens"] == len(load(config.run_folder, RolloutTokens))
