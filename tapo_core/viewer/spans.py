"""A trajectory's text, cut where the store says: into the parts of a construction, and into tokens.

Nothing is guessed: spans whose texts do not give the stored text, or tokens that do not decode to it, are not shown as if they
did, and the reason is said instead.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from tapo_core.records import Correction, ErrorLocation, Rollout
from tapo_core.store.view_trajectory import Trajectory

T = TypeVar("T")
Decode = Callable[[Sequence[int]], str]
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
_LONGEST_CHARACTER = 4  #: bytes, so tokens, too: what is not one after so many never will be


class Part(StrEnum):
    """What a stretch of a trajectory is."""

    PREFIX = "wrong prefix"  #: of the wrong rollout, its first error included
    DIAGNOSIS = "diagnosis"
    CORRECTION = "correction"
    ERROR = "first error"  #: the step of a rollout in which a method sees its first error
    PLAIN = "rollout"  #: all else of a rollout


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a text. The spans of a text follow each other without a gap."""

    part: Part
    char_start: int
    char_end: int
    text: str


@dataclass(frozen=True, slots=True)
class Token:
    """One token with what is known about it. Missing numbers were not stored for this kind of trajectory."""

    index: int
    token_id: int | None  #: None if only weights are stored
    text: (
        str | None
    )  #: None without a tokenizer; empty where the token ends inside a character, which the next one completes
    part: Part | None
    weight: float | None  #: OTS weight
    logprob: float | None  #: of the policy before the update, nats
    entropy: float | None  #: likewise
    sampled_logprob: float | None  #: of the sampler, nats


@dataclass(frozen=True, slots=True)
class Piece:
    """A token's text, or as much of it as lies in one span: what is drawn as one box."""

    text: str
    token: Token | None  #: None where the text is not cut into tokens


@dataclass(frozen=True, slots=True)
class Cut:
    """A text cut into spans, and those into tokens where that can be done."""

    parts: tuple[tuple[Span, tuple[Piece, ...]], ...]
    tokens: tuple[Token, ...]
    notes: tuple[str, ...]  #: what could not be cut, and why


def construction_spans(correction: Correction, wrong_text: str) -> tuple[Span, ...]:
    """Wrong prefix, diagnosis and correction of a parsed construction. What parts two of them belongs to the later one.

    Raises:
        ValueError: the stored parts do not give the stored text.
    """
    text = correction.constructed_text
    if text is None:
        raise ValueError("nothing was constructed")
    kept = correction.prefix_char_end or 0
    if text[:kept] != wrong_text[:kept]:
        raise ValueError(f"its first {kept} characters are not those of the wrong rollout")
    end = kept
    spans = [Span(Part.PREFIX, 0, kept, text[:kept])] if kept else []
    for part, content in ((Part.DIAGNOSIS, correction.diagnosis), (Part.CORRECTION, correction.correction)):
        if content is None:
            continue
        start, own = len(text) - len(text[end:].lstrip()), content.lstrip()
        if text[start : start + len(own)] != own:
            raise ValueError(f"after {end} characters comes something other than the stored {part}")
        spans.append(Span(part, end, start + len(own), text[end : start + len(own)]))
        end = start + len(own)
    if end != len(text):
        raise ValueError(f"after {end} characters, its parts end before it does")
    return tuple(spans)


def rollout_spans(rollout: Rollout, location: ErrorLocation | None) -> tuple[Span, ...]:
    """A rollout's text, with the step apart in which a method sees the first error."""
    text = rollout.text
    start, end = (None, None) if location is None else (location.char_start, location.char_end)
    if start is None or end is None or not start < end <= len(text):  # (a redacted text is shorter)
        return (Span(Part.PLAIN, 0, len(text), text),)
    bounds = ((Part.PLAIN, 0, start), (Part.ERROR, start, end), (Part.PLAIN, end, len(text)))
    return tuple(Span(part, low, high, text[low:high]) for part, low, high in bounds if low < high)


def token_texts(token_ids: Sequence[int], decode: Decode) -> list[str]:
    """The text that each token adds to those before it. A character made of several tokens comes with the last of them.

    Each token is decoded with the few before it, since what it says depends on them; together they are what all tokens decode to,
    whenever the tokenizer decodes in that order.
    """
    texts = []
    start = read = 0
    for index in range(len(token_ids)):
        known, now = decode(token_ids[start:read]), decode(token_ids[start : index + 1])
        waiting = index + 1 - read < _LONGEST_CHARACTER and index + 1 < len(token_ids)
        if now.endswith(_INCOMPLETE) and waiting:
            texts.append("")
            continue
        texts.append(now[len(known) :])
        start, read = read, index + 1
    return texts


def cut(found: Trajectory, decode: Decode | None) -> Cut:
    """The text of a trajectory in spans and tokens. `decode` None: the run's tokenizer is not at hand."""
    notes: list[str] = []
    if found.rollout is not None:
        rollout = found.rollout.rollout
        spans = rollout_spans(rollout, found.locations[0] if found.locations else None)
        tokens = _tokens(found, spans, rollout.text, decode, notes)
    else:
        assert found.correction is not None
        assert found.wrong is not None
        text = found.correction.constructed_text
        if text is None:
            return Cut((), (), ())
        try:
            spans = construction_spans(found.correction, found.wrong.rollout.text)
        except ValueError as error:
            notes.append(
                f"Parts are not shown: {error}. (A redaction takes texts out; tapo audit verify finds damage.)"
            )
            spans = (Span(Part.PLAIN, 0, len(text), text),)
        tokens = _tokens(found, spans, text, decode, notes)
    return Cut(tuple((span, _pieces(span, tokens)) for span in spans), tokens, tuple(notes))


def _tokens(
    found: Trajectory, spans: Sequence[Span], text: str, decode: Decode | None, notes: list[str]
) -> tuple[Token, ...]:
    """The tokens of a trajectory, with their texts if these give its text."""
    ids: list[int] = [] if found.tokens is None else found.tokens.token_ids_T
    weight = found.weight
    count = max(len(ids), 0 if weight is None else len(weight.weights_T))
    if count == 0:
        notes.append("No tokens are stored for it.")
        return ()
    if weight is not None and len(ids) != len(weight.weights_T):
        notes.append(
            f"{len(ids)} tokens and {len(weight.weights_T)} weights are stored: they are listed by their place."
        )
    texts: list[str] | None = None
    if decode is not None:
        texts = token_texts(ids, decode)
        if "".join(texts) != text:
            texts = None
            notes.append("The stored tokens do not decode to the stored text, so they are listed by their place.")
    sampled = _sampled_logprobs(found)
    parts = _parts(spans, texts)
    return tuple(
        Token(
            index,
            _at(ids, index),
            _at(texts, index),
            _at(parts, index),
            _at(None if weight is None else weight.weights_T, index),
            _at(None if weight is None else weight.logprobs_T, index),
            _at(None if weight is None else weight.entropies_T, index),
            _at(sampled, index),
        )
        for index in range(count)
    )


def _at(values: Sequence[T] | None, index: int) -> T | None:
    return None if values is None or index >= len(values) else values[index]


def _sampled_logprobs(found: Trajectory) -> list[float] | None:
    """The sampler's, of each token that was sampled as such: all of a rollout, the kept prefix of a construction."""
    if found.rollout is not None:
        return None if found.tokens is None else found.tokens.logprobs_T
    assert found.correction is not None
    assert found.wrong is not None
    kept = found.correction.prefix_token_end or 0
    own, wrong = found.tokens, found.wrong.tokens
    if own is None or wrong is None or wrong.logprobs_T is None or own.token_ids_T[:kept] != wrong.token_ids_T[:kept]:
        return None
    return wrong.logprobs_T[:kept]


def _parts(spans: Sequence[Span], texts: Sequence[str] | None) -> list[Part] | None:
    """The part in which each token ends."""
    if texts is None:
        return None
    ends = itertools.accumulate(len(text) for text in texts)
    return [next((span.part for span in spans if end <= span.char_end), spans[-1].part) for end in ends]


def _pieces(span: Span, tokens: Sequence[Token]) -> tuple[Piece, ...]:
    """A span's text by tokens. One that reaches over the span's end is drawn in two pieces."""
    if not tokens or tokens[0].text is None:
        return (Piece(span.text, None),)
    pieces, at = [], 0
    for token in tokens:
        text = token.text or ""
        low, high = max(at, span.char_start), min(at + len(text), span.char_end)
        if low < high:
            pieces.append(Piece(text[low - at : high - at], token))
        at += len(text)
    return tuple(pieces)
