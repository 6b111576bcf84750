"""Diagnose and correct: from the policy's raw construction to a micro-reflective trajectory.

The policy is asked for

    <analysis>what is wrong</analysis>
    <reconstruction>the wrong rollout up to and including its first error, a diagnosis, the correction</reconstruction>

The kept prefix always comes from the wrong rollout's own tokens; the transcription is only matched against it, step by step.
Whatever does not parse is an outcome (`ParseOutcome`), stored and counted, never trained on.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz

from tapo_core.records import FinishReason, ParseOutcome
from tapo_core.steps import Step, split_steps

_TAGS = ("analysis", "reconstruction")
_NUMBERS = re.compile(r"\d+(?:\.\d+)?")
_WORDS = re.compile(r"[^\W\d_]{2,}")
_LEAK = re.compile(
    r"\b(?:reference|(?:correct|other|second|given) (?:attempt|solution|rollout)|wrong attempt)\b", re.IGNORECASE
)
_ELLIPSIS = re.compile(r"\s*[\[(]?(?:\.{3,}|\u2026|\\l?dots)[\])]?\s*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_DECORATION = re.compile(r"\\[()\[\]]|\$+|\\(?:left|right|displaystyle)(?![A-Za-z])|\\[,;:! ]")
#: Characters above which a step is only compared as a whole: looking for parts takes time with the square of the length.
_LONGEST = 4000
#: What is left of a step with something missing must be at least this share of it.
_LEAST_PIECE = 0.4
#: Words with which a diagnosis speaks of an error or turns around. Without one, a step is a step: perhaps of another rollout.
_CUES = re.compile(
    r"\b(?:wait|hmm|hold on|actually|oops|no|not|never|cannot|wrong|incorrect|invalid|error|mistake|mistaken|miscalculat\w+|"
    r"should|instead|however|but|forgot|missed|overlooked|let me|let's|let us|correct(?:ing|ion|ed)?|"
    r"re-?(?:do|check|calculat|comput|consider|examin|evaluat|read|visit)\w*|double-check|"
    r"too (?:small|large|big|many|few))\b|n't\b",
    re.IGNORECASE,
)
#: A diagnosis is a sentence: at least this many words of two letters or more.
MIN_DIAGNOSIS_WORDS = 3


@dataclass(frozen=True, slots=True)
class Construction:
    """A raw construction, taken apart. Fields are None from the point on where parsing ended."""

    outcome: ParseOutcome
    detail: str | None = None
    analysis: str | None = None
    prefix_steps: int | None = None
    prefix_char_end: int | None = None  #: in the wrong rollout's text
    match_score: float | None = None  #: 0-100
    diagnosis: str | None = None
    correction: str | None = None

    def text(self, wrong_text: str) -> str:
        """The constructed trajectory: prefix, diagnosis, correction.

        Raises:
            ValueError: the construction did not parse.
        """
        if self.outcome is not ParseOutcome.PARSED or self.prefix_char_end is None:
            raise ValueError(f"a construction that is {self.outcome} has no trajectory")
        tail = wrong_text[self.prefix_char_end :]
        # What parted the steps in the rollout parts the diagnosis from the prefix: "\n", or "\n\n" between paragraphs.
        separator = tail[: len(tail) - len(tail.lstrip())] or "\n"
        if "\n" not in separator:
            separator = "\n"
        return f"{wrong_text[: self.prefix_char_end]}{separator}{self.diagnosis}\n{self.correction}"


def parse_construction(
    raw_output: str, finish_reason: FinishReason, wrong_text: str, min_prefix_match: float
) -> Construction:
    """Take a raw construction apart. Never raises for anything a model can write."""
    sections = {}
    for tag in _TAGS:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", raw_output, re.DOTALL)
        if len(found) != 1:
            if finish_reason is FinishReason.LENGTH:
                return Construction(ParseOutcome.TRUNCATED, f"cut off before </{tag}>")
            return Construction(ParseOutcome.NO_TAG, f"{len(found)} complete <{tag}> sections, not 1")
        sections[tag] = found[0].strip()
    analysis = sections["analysis"]
    steps, wrong_steps = split_steps(sections["reconstruction"]), split_steps(wrong_text)
    read, kept, score = _match_prefix(steps, wrong_steps, min_prefix_match)
    if kept == 0:
        return Construction(ParseOutcome.PREFIX_MISMATCH, "the first step is not the wrong rollout's", analysis)
    char_end = wrong_steps[kept - 1].char_end
    rest = steps[read:]
    if not rest:
        outcome = ParseOutcome.NO_ERROR_LEFT if kept == len(wrong_steps) else ParseOutcome.NO_CORRECTION
        return Construction(outcome, "nothing follows the prefix", analysis, kept, char_end, score)
    diagnosis = rest[0].text.strip()
    if len(_WORDS.findall(diagnosis)) < MIN_DIAGNOSIS_WORDS or not _CUES.search(diagnosis):
        detail = f"the prefix is followed by {diagnosis[:80]!r}"
        return Construction(ParseOutcome.NO_DIAGNOSIS, detail, analysis, kept, char_end, score)
    correction = sections["reconstruction"][rest[0].char_end :].strip("\n")
    if not correction.strip():
        detail = "nothing follows the diagnosis"
        return Construction(ParseOutcome.NO_CORRECTION, detail, analysis, kept, char_end, score, diagnosis)
    leak = _LEAK.search(f"{diagnosis}\n{correction}")
    outcome = ParseOutcome.LEAKS_REFERENCE if leak else ParseOutcome.PARSED
    said = f"it says {leak[0]!r}" if leak else None
    return Construction(outcome, said, analysis, kept, char_end, score, diagnosis, correction)


def _match_prefix(steps: Sequence[Step], wrong: Sequence[Step], min_score: float) -> tuple[int, int, float]:
    """How many leading steps transcribe the wrong rollout, how many of its steps they cover, and the least similarity (0-100).

    A transcription may skip a step, or many where it writes an ellipsis: what counts is where it arrives, since the prefix
    itself is taken from the rollout.
    """
    read, kept, worst, gap = 0, 0, 100.0, False
    for index, step in enumerate(steps):
        if _ELLIPSIS.fullmatch(step.text.strip()):
            gap = True
            continue
        reach = len(wrong) if gap else min(len(wrong), kept + 2)
        scores = ((place, _similarity(step.text, wrong[place].text)) for place in range(kept, reach))
        found = next(((place, score) for place, score in scores if score >= min_score), None)
        if found is None:
            break
        read, kept, worst, gap = index + 1, found[0] + 1, min(worst, found[1]), False
    return read, kept, worst


def _similarity(transcribed: str, original: str) -> float:
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


def constructed_tokens(
    constructed_text: str,
    wrong_token_ids_T: Sequence[int],
    encode: Callable[[str], list[int]],
    decode: Callable[[Sequence[int]], str],
    eos_token_id: int,
) -> tuple[list[int], int]:
    """Tokens of a constructed trajectory, and how many of them are the wrong rollout's own.

    The longest run of the wrong rollout's tokens whose text begins the trajectory is taken over unchanged; the rest is encoded,
    and the end-of-turn token closes it.
    """
    low, high = 0, len(wrong_token_ids_T)
    while low < high:
        middle = (low + high + 1) // 2
        # A prefix that ends inside a character decodes to replacement characters there: what is before them counts.
        if constructed_text.startswith(decode(wrong_token_ids_T[:middle]).rstrip("\N{REPLACEMENT CHARACTER}")):
            low = middle
        else:
            high = middle - 1
    while not constructed_text.startswith(decode(wrong_token_ids_T[:low])):
        low -= 1
    own = list(wrong_token_ids_T[:low])
    return [*own, *encode(constructed_text[len(decode(own)) :]), eos_token_id], low
