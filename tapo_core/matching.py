"""Whether a policy's transcription of a text is that text, but for what a transcription may change."""

import re

from rapidfuzz import fuzz

_NUMBERS = re.compile(r"\d+(?:\.\d+)?")
_ELLIPSIS = re.compile(r"\s*[\[(]?(?:\.{3,}|\u2026|\\l?dots)[\])]?\s*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_DECORATION = re.compile(r"\\[()\[\]]|\$+|\\(?:left|right|displaystyle)(?![A-Za-z])|\\[,;:! ]")
#: Characters above which a step is only compared as a whole: looking for parts takes time with the square of the length.
_LONGEST = 4000
#: What is left of a step with something missing must be at least this share of it.
_LEAST_PIECE = 0.4


def is_ellipsis(text: str) -> bool:
    """Whether a text only says that something was left out."""
    return _ELLIPSIS.fullmatch(text.strip()) is not None


def similarity(transcribed: str, original: str) -> float:
    """0-100, white space and LaTeX decorations apart; a sentence may be missing, or be cut short by an ellipsis.

    Numbers must be the original's, in its order: a transcription that silently repairs the error (13 -> 14) is similar, and
    not the same step. Only a text that lacks a part may lack numbers, and without an ellipsis not the last: there the claim is.
    """
    said, meant = _plain(transcribed), _plain(original)
    numbers, expected = _NUMBERS.findall(said), _NUMBERS.findall(meant)
    whole = fuzz.ratio(said, meant) if numbers == expected else 0.0
    if max(len(said), len(meant)) > _LONGEST:
        return whole
    parts = [part.strip() for part in _ELLIPSIS.split(said) if part.strip()]
    cut = len(parts) > 1
    if not cut:
        parts = _SENTENCE_END.split(said)
    if (not cut and numbers[-1:] != expected[-1:]) or sum(len(part) for part in parts) < _LEAST_PIECE * len(meant):
        return whole
    # Every part must stand in the original, one after the other, with the numbers that stand there.
    at, least = 0, 100.0
    for part in parts:
        place = fuzz.partial_ratio_alignment(part, meant[at:])
        if place is None or _NUMBERS.findall(part) != _NUMBERS.findall(meant[at:][place.dest_start : place.dest_end]):
            return whole
        at, least = at + place.dest_end, min(least, place.score)
    return max(whole, least)


def _plain(text: str) -> str:
    """A text without what a transcription may change: white space, math delimiters, and LaTeX that only sets size."""
    return " ".join(_DECORATION.sub(" ", text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")).split())
