"""What ends a turn, for chat templates and declarations as real checkpoints have them."""

import json
from datetime import datetime

import pytest

from tapo_core.chat import Chat
from tapo_core.engines.positions import positions, positions_of
from tapo_core.errors import UserError
from tests.engines.conftest import CHATML, GEMMA3, GLM4, LLAMA3, MISTRAL, OPEN_ENDED, PHI3, QWEN3, SMOLLM2, Make

IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"]
GEMMA = ["<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
PHI = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"]
GLM = ["<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|observation|>"]
SPM = ["<s>", "</s>"]

#: Template, special tokens, what is declared, and the tokens that end a turn: the end-of-turn token first.
STYLES = {
    "Qwen2.5, as it came out": (CHATML, IM, {"eos": IM[2], "generation": IM[0], "config": IM[0]}, [IM[2], IM[0]]),
    "Qwen3 base": (QWEN3, IM, {"eos": IM[0], "generation": IM[0], "config": IM[0]}, [IM[2], IM[0]]),
    "Qwen3": (QWEN3, IM, {"eos": IM[2], "generation": [IM[2], IM[0]], "config": IM[2]}, [IM[2], IM[0]]),
    "SmolLM2 from a GGUF file": (
        SMOLLM2,
        IM,
        {"eos": IM[1], "bos": IM[1], "generation": IM[2], "config": IM[2]},
        [IM[2]],
    ),
    "Llama 3.2": (
        LLAMA3,
        LLAMA,
        {"eos": LLAMA[5], "bos": LLAMA[0], "generation": [LLAMA[1], LLAMA[4], LLAMA[5]], "config": [LLAMA[1]]},
        [LLAMA[5], LLAMA[1], LLAMA[4]],
    ),
    "Gemma 3": (
        GEMMA3,
        GEMMA,
        {"eos": GEMMA[0], "bos": GEMMA[1], "generation": [GEMMA[0], GEMMA[3]]},
        [GEMMA[3], GEMMA[0]],
    ),
    "Phi-3": (PHI3, PHI, {"eos": PHI[0], "generation": [PHI[0], PHI[2], PHI[3]]}, [PHI[3], PHI[0], PHI[2]]),
    "Mistral": (MISTRAL, SPM, {"eos": SPM[1], "bos": SPM[0], "config": SPM[1]}, [SPM[1]]),
    "Mistral with control tokens": (MISTRAL, [*SPM, "[INST]", "[/INST]"], {"eos": SPM[1], "bos": SPM[0]}, [SPM[1]]),
    "GLM-4": (GLM4, GLM, {"eos": GLM[0], "generation": [GLM[0], GLM[3], GLM[5]]}, [GLM[3], GLM[0], GLM[5]]),
    "the last message is left open": (OPEN_ENDED, IM, {"eos": IM[0]}, [IM[2], IM[0]]),
    "one token between all turns": (
        CHATML.replace("<|im_start|>", "")
        .replace("<|im_end|>\\n", "<|sep|>")
        .replace("'assistant", "'<|sep|>assistant"),
        ["<|sep|>"],
        {"eos": "<|sep|>"},
        ["<|sep|>"],
    ),
    "only the template knows": (CHATML, IM, {}, [IM[2]]),
    "the closing text is no token": (
        CHATML,
        ["<s>", "</s>"],
        {"eos": "</s>", "generation": ["<s>", "</s>"]},
        ["</s>", "<s>"],
    ),
    "no closing text": ("{{ messages[0].content }}", SPM, {"generation": ["</s>"], "config": "<s>"}, ["</s>", "<s>"]),
}


@pytest.mark.parametrize("style", STYLES)
def test_the_stop_set_is_all_that_is_declared_and_what_the_template_closes_with(style: str, make: Make) -> None:
    template, special, declared, expected = STYLES[style]
    chat = Chat(make(template, special, **declared), {})
    found = [chat.transcript([token]) for token in chat.stops.tokens]
    assert found[0] == expected[0]
    assert sorted(found) == sorted(expected)
    assert list(chat.stops.tokens[1:]) == sorted(chat.stops.tokens[1:])
    assert chat.stops.end == chat.stops.found_in[chat.stops.end_named_by][0]
    assert chat.decode([*chat.encode("8"), chat.stops.end]) == "8"


def test_a_token_that_begins_the_assistants_turn_does_not_end_it_and_is_told(make: Make) -> None:
    chat = Chat(make(CHATML, IM, eos=IM[1], config=[IM[1], IM[2]]), {})
    assert {chat.transcript([token]): why for token, why in chat.stops.left_out.items()} == {
        IM[1]: "it begins the assistant's turn"
    }


def test_arguments_of_the_template_count(make: Make) -> None:
    checkpoint = make(QWEN3, IM, added=["<think>", "</think>"], eos=IM[2])
    plain, thinks = Chat(checkpoint, {"enable_thinking": False}), Chat(checkpoint, {})
    assert plain.stops.tokens == thinks.stops.tokens
    assert plain.transcript(plain.prompt("a")).endswith("<think>\n\n</think>\n\n")
    assert {plain.transcript([t]) for t in plain.control - thinks.control} == {"<think>", "</think>"}


def test_eos_tokens_of_a_nested_configuration_count(make: Make) -> None:
    checkpoint = make("{{ messages[0].content }}", SPM)
    file = checkpoint / "config.json"
    first = json.loads(file.read_text())["vocab_size"] - 2
    file.write_text(json.dumps({"text_config": {"eos_token_id": [first, first + 1], "vocab_size": first + 2}}))
    stops = Chat(checkpoint, {}).stops
    assert (stops.tokens, stops.end_named_by) == ((first, first + 1), "config")
    file.write_text(json.dumps({"text_config": {"eos_token_id": [first, first + 1], "vocab_size": first + 1}}))
    stops = Chat(checkpoint, {}).stops
    assert (stops.tokens, stops.left_out) == ((first,), {first + 1: f"the model has {first + 1} tokens"})


def test_a_closing_token_that_is_not_marked_as_special_ends_a_turn_and_is_no_text(make: Make) -> None:
    chat = Chat(make(CHATML, IM[:1], added=IM[1:], eos=IM[0]), {})
    assert chat.transcript([chat.stops.end]) == "<|im_end|>"
    assert chat.decode([*chat.encode("8"), chat.stops.end]) == "8"


def test_no_stop_token_is_one_line(make: Make) -> None:
    with pytest.raises(
        UserError, match=r"no token ends a turn: .* closes a turn with '<\|im_end\|>\\n', which is no token"
    ) as told:
        Chat(make(CHATML, []), {}).stops  # noqa: B018
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match=r"no token ends a turn.* is named, but it begins the assistant's turn"):
        Chat(make(CHATML, ["<|im_start|>"], eos="<|im_start|>"), {}).stops  # noqa: B018


@pytest.mark.parametrize("value", ['"2"', "true", "[2, null]", "-1", "[[2]]", "1.5"])
def test_an_eos_token_id_that_is_none_is_named(value: str, make: Make) -> None:
    checkpoint = make(CHATML, IM, eos=IM[2])
    (checkpoint / "generation_config.json").write_text(f'{{"eos_token_id": {value}}}')
    with pytest.raises(UserError, match=r"generation_config\.json: eos_token_id = .* is no token id"):
        Chat(checkpoint, {}).stops  # noqa: B018


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ raise_exception('A system message is needed') }}", r"refuses .*: user \(A system message is needed\)"),
        ("{{ messages[1].content + 'a' }}", "refuses"),
        ("{% for m in messages %}{{ m.content[0].text | trim + 1 }}{% endfor %}", "refuses"),
        ("{% if %}", "refuses"),
    ],
)
def test_a_template_that_refuses_a_user_message_is_one_line_that_says_what_to_do(
    template: str, told: str, make: Make
) -> None:
    checkpoint = make(template, SPM, eos="</s>")
    with pytest.raises(UserError, match=told) as error:
        Chat(checkpoint, {}).stops  # noqa: B018
    assert "\n" not in str(error.value)
    assert str(checkpoint) in str(error.value)
    assert "model.chat_template_kwargs" in str(error.value)


def test_prompts_see_one_date_for_ever(make: Make) -> None:
    checkpoint = make(LLAMA3, LLAMA, eos=LLAMA[5], bos=LLAMA[0])
    chat = Chat(checkpoint, {}, datetime(2026, 1, 7, 23, 59, 59))
    assert "Today Date: 07 Jan 2026" in chat.transcript(chat.prompt("a"))
    assert chat.reads_clock
    assert not Chat(make(CHATML, IM), {}).reads_clock


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": 4096, "seq_length": 2048}, 2048),
        ({"text_config": {"max_position_embeddings": 4096}, "max_position_embeddings": None}, 4096),
        ({}, None),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 4}}, 8192),
        ({"max_position_embeddings": 2048, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 4096),
        (
            {
                "max_position_embeddings": 40960,
                "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        ({"max_position_embeddings": 131072, "rope_scaling": {"type": "longrope", "long_factor": [1.0]}}, 131072),
        (
            {
                "model_type": "gemma3_text",
                "max_position_embeddings": 32768,
                "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}},
            },
            32768,
        ),
        ({"max_position_embeddings": 512, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, 512),
        ({"max_position_embeddings": 512, "rope_scaling": {"type": "linear", "factor": None}}, 512),
    ],
)
def test_positions(config: dict[str, object], expected: int | None) -> None:
    assert positions(config) == expected


def test_positions_that_cannot_be_read_are_one_line(make: Make) -> None:
    checkpoint = make(CHATML, IM, max_position_embeddings="many")
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        positions_of(checkpoint)
