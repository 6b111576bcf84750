"""Which tokens end a turn of a model.

Checkpoints name them in up to four places, and these often differ: generation_config.json, config.json, the tokenizer, and the
chat template, which shows it by the token that it puts after what the assistant said. A token that any of the four names ends a
turn. One of them is *the* end-of-turn token, with which we close what we write ourselves: the chat template's; where that closes
with no token, the tokenizer's, then the first of generation_config.json, then the first of config.json.

A token that the template puts at the *beginning* of the assistant's turn ends none if only config.json or the tokenizer names
it: converted checkpoints have such a one as eos by mistake (``<|im_start|>``). generation_config.json is made for this, and is
believed. A named token outside of the model's vocabulary is never sampled, and is left out too.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from tapo_core.engines.template import Template
from tapo_core.errors import UserError

GENERATION_CONFIG, CONFIG, TOKENIZER, TEMPLATE = "generation_config", "config", "tokenizer", "chat_template"
#: Whose first token is the end-of-turn token.
_ORDER = (TEMPLATE, TOKENIZER, GENERATION_CONFIG, CONFIG)
#: Texts that are looked for in rendered conversations. No template has them, and none is changed by trimming.
_QUESTION, _ANSWER = "tapo-question-6b1f", "tapo-answer-93ce"


@dataclass(frozen=True, slots=True)
class Stops:
    """The tokens that end a turn, and where they were found."""

    tokens: tuple[int, ...]  #: ids; the end-of-turn token first, the others ascending
    found_in: Mapping[str, tuple[int, ...]]  #: place -> ids that it names
    end_named_by: str  #: the place that named the end-of-turn token
    left_out: Mapping[int, str]  #: named tokens that do not end a turn, with the reason
    closing: str | None  #: text that the template puts after an assistant's message; None if it shows no such message

    @property
    def end(self) -> int:
        """Id of the end-of-turn token."""
        return self.tokens[0]


def find_stops(checkpoint: Path, tokenizer: Any, template: Template) -> Stops:
    """Work out what ends a turn of a checkpoint's model.

    Raises:
        UserError: nothing does; a file cannot be read; or the template refuses a conversation of one user message.
    """
    opening = _opening(tokenizer, template)
    config = _read(checkpoint / "config.json")
    named = {
        GENERATION_CONFIG: _named(checkpoint / "generation_config.json"),
        CONFIG: _named(checkpoint / "config.json"),
        TOKENIZER: () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),),
    }
    declared = {token for tokens in named.values() for token in tokens}
    mistaken = (declared & opening).difference(named[GENERATION_CONFIG])
    closing, end = _closing(tokenizer, template, declared, opening)
    named[TEMPLATE] = () if end is None else (end,)
    size = _vocabulary(config, tokenizer)
    left_out = dict.fromkeys(sorted(mistaken - {end}), "it begins the assistant's turn")
    left_out |= {
        token: f"the model has {size} tokens" for token in sorted({*declared, *named[TEMPLATE]}) if token >= size
    }
    found_in = {place: tuple(token for token in named[place] if token not in left_out) for place in _ORDER}
    first = next((place for place in _ORDER if found_in[place]), None)
    if first is None:
        closes = "shows no assistant's message" if closing is None else f"closes a turn with {closing!r}"
        refused = "".join(f"; {token} is named, but {why}" for token, why in left_out.items())
        raise UserError(
            f"{checkpoint}: no token ends a turn: generation_config.json, config.json and the tokenizer name no eos token, "
            f"and the chat template {closes}, which is no token{refused}. Set eos_token_id in generation_config.json to the "
            "token that the model ends its answers with"
        )
    main = found_in[first][0]
    others = {token for tokens in found_in.values() for token in tokens} - {main}
    return Stops((main, *sorted(others)), found_in, first, left_out, closing)


def stops_of(checkpoint: Path, tokenizer: Any) -> Stops:
    """`find_stops` outside of a run: today, and without arguments for the chat template."""
    return find_stops(checkpoint, tokenizer, Template(checkpoint, tokenizer, {}, datetime.now()))


def declare_stops(model: Any, tokenizer: Any, tokens: Sequence[int]) -> None:
    """Make a model and a tokenizer name the tokens that end a turn, so that whoever loads what is saved of them stops there.

    `tokens`: the end-of-turn token first. It becomes the tokenizer's eos token too, unless the chat template writes that one.
    """
    value = tokens[0] if len(tokens) == 1 else list(tokens)
    model.generation_config.eos_token_id = value
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.eos_token_id = value
    if tokenizer.eos_token_id != tokens[0] and "eos_token" not in tokenizer.get_chat_template():
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(tokens[0])


def control_tokens(tokenizer: Any, template: Template, stops: Iterable[int]) -> frozenset[int]:
    """The tokens that have a meaning beyond their text: those that the tokenizer marks as special, those that end a turn, and
    those that the template puts around a user's message.

    Ordinary vocabulary is never among them, nor are words that were added to a tokenizer as words.
    """
    added = tokenizer.added_tokens_decoder
    frame = tokenizer.encode(template.render([_message("user", _QUESTION)], True), add_special_tokens=False)
    own = {token for token in (*frame, *stops) if token in added and str(added[token].content).strip()}
    return frozenset(own | {token for token, about in added.items() if about.special})


def _message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _opening(tokenizer: Any, template: Template) -> set[int]:
    """Control tokens that the template puts at the beginning of the assistant's turn."""
    question = [_message("user", _QUESTION)]
    ended, asked = (
        tokenizer.encode(template.render(question, begin), add_special_tokens=False) for begin in (False, True)
    )
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ended, asked, strict=False)))
    return tokenizer.added_tokens_decoder.keys() & asked[same:]


def _closing(
    tokenizer: Any, template: Template, declared: Collection[int], opening: Collection[int]
) -> tuple[str | None, int | None]:
    """What the template puts after an assistant's message: the text, and the first control token in it.

    Some templates close a message only when another one follows, so that is tried second. There, what begins a turn closes none.
    """
    question, answer = _message("user", _QUESTION), _message("assistant", _ANSWER)
    added = tokenizer.added_tokens_decoder
    closing = None
    for conversation, others in (([question, answer], ()), ([question, answer, question], opening)):
        try:
            _, shown, after = template.render(conversation, False).rpartition(_ANSWER)
        except UserError:
            continue
        if not shown:
            continue
        after = after.partition(_QUESTION)[0]
        closing = after if closing is None else closing
        for token in tokenizer.encode(after, add_special_tokens=False):
            marks = token in added and str(added[token].content).strip() != ""
            if (marks or token in declared) and token not in others:
                return after, token
    return closing, None


def _vocabulary(config: Mapping[str, Any], tokenizer: Any) -> int:
    """Number of tokens that the model can write."""
    text = config.get("text_config")
    size = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    return size if isinstance(size, int) else len(tokenizer)


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: is no JSON object")
    return found


def _named(file: Path) -> tuple[int, ...]:
    """The eos tokens that a file of a checkpoint names: a number or a list, also in ``text_config``."""
    content = _read(file)
    text = content.get("text_config")
    found: list[int] = []
    for section in (content, text if isinstance(text, dict) else {}):
        value = section.get("eos_token_id")
        for token in value if isinstance(value, list) else [] if value is None else [value]:
            if not isinstance(token, int) or isinstance(token, bool) or token < 0:
                raise UserError(
                    f"{file}: eos_token_id = {json.dumps(value)}: {token!r} is no token id; write a number or a list of numbers"
                )
            found.append(token)
    return tuple(dict.fromkeys(found))
