"""Checkpoints that are a tokenizer, a chat template and two small JSON files."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tapo_core.nano.tokenizer import build_tokenizer

#: Chat templates in the style of well-known models, shortened to what they do with messages of users and assistants.
CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
SMOLLM2 = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN3 = (
    "{%- for m in messages %}{%- if m.role == 'assistant' and loop.last %}"
    "{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}"
    "{{- m.content.split('</think>')[-1].lstrip('\\n') + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- set today = strftime_now('%d %b %Y') %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + today + '\\n\\n<|eot_id|>' }}"
    "{%- for m in messages %}"
    "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{%- for m in messages -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate') }}{%- endif -%}"
    "{%- set role = 'model' if m.role == 'assistant' else m.role -%}"
    "{{ '<start_of_turn>' + role + '\\n' }}{{ m.content | trim }}{{ '<end_of_turn>\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
#: Closes nothing: what follows a turn is the token that begins the next one.
GLM4 = (
    "{{ '[gMASK]<sop>' }}{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
#: Leaves the last message open, so that it can be continued.
OPEN_ENDED = CHATML.replace("'<|im_end|>\\n'", "('' if loop.last and m.role == 'assistant' else '<|im_end|>\\n')")

Make = Callable[..., Path]


@cache
def _nano_backend() -> str:
    return str(build_tokenizer().backend_tokenizer.to_str())


def byte_level() -> Tokenizer:
    """The built-in model's tokenizer, without special tokens."""
    state = json.loads(_nano_backend())
    for token in state["added_tokens"]:
        state["model"]["vocab"][f"<unused{token['id']}>"] = state["model"]["vocab"].pop(token["content"])
    return Tokenizer.from_str(json.dumps(state | {"added_tokens": []}))


def sentencepiece(prepend: str) -> Tokenizer:
    """A tokenizer of the kind that Llama 2 ("normalizer") and Mistral ("first") have: spaces are ▁, with one before the text."""
    characters = [chr(code) for code in range(33, 127)] + ["▁", "\n"]
    vocab = {
        piece: number for number, piece in enumerate(["<unk>", *characters, *(f"<0x{n:02X}>" for n in range(256))])
    }
    merges = [(a, b) for a, b in ("▁S", "ta", "in", "▁t", "he") if a in vocab and b in vocab]
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True))
    if prepend == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def unigram() -> Tokenizer:
    """A tokenizer of the kind that T5 and XLM-R have: the special tokens are pieces of the vocabulary, with the best score."""
    characters = [chr(code) for code in range(33, 127)] + ["▁", "\n"]
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((c, -5.0) for c in characters), ("▁S", -3.0), ("▁the", -3.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return tokenizer


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A function that writes a checkpoint without weights. `special` and `added` are tokens; numbers of eos are their names."""

    def made(
        template: str,
        special: Sequence[str],
        *,
        eos: str | None = None,
        bos: str | None = None,
        added: Sequence[str] = (),
        generation: str | Sequence[str] | None = None,
        config: str | Sequence[str] | None = None,
        backend: Tokenizer | None = None,
        **more: Any,
    ) -> Path:
        backend = byte_level() if backend is None else backend
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
        backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, chat_template=template, clean_up_tokenization_spaces=False
        )
        for name, token in (("eos_token", eos), ("bos_token", bos)):
            if token is not None:
                setattr(tokenizer, name, token)
        tokenizer.save_pretrained(tmp_path)

        def ids(names: str | Sequence[str] | None) -> Any:
            found = None if names is None else tokenizer.convert_tokens_to_ids(names)
            return found

        written = {"vocab_size": len(tokenizer), "eos_token_id": ids(config), **more}
        (tmp_path / "config.json").write_text(json.dumps(written))
        if generation is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids(generation)}))
        return tmp_path

    return made
