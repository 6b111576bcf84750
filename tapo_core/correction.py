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
    kept, score = _match_prefix(steps, wrong_steps, min_prefix_match)
    if kept == 0:
        return Construction(ParseOutcome.PREFIX_MISMATCH, "the first step is not the wrong rollout's", analysis)
    char_end = wrong_steps[kept - 1].char_end
    rest = steps[kept:]
    if not rest:
        outcome = ParseOutcome.NO_ERROR_LEFT if kept == len(wrong_steps) else ParseOutcome.NO_CORRECTION
        return Construction(outcome, "nothing follows the prefix", analysis, kept, char_end, score)
    diagnosis = rest[0].text.strip()
    if len(_WORDS.findall(diagnosis)) < MIN_DIAGNOSIS_WORDS:
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


def _match_prefix(steps: Sequence[Step], wrong: Sequence[Step], min_score: float) -> tuple[int, float]:
    """How many leading steps are the wrong rollout's, and the least similarity among them (0-100).

    Numbers must be equal: a transcription that silently repairs the error (13 -> 14) is similar, and not the same step.
    """
    kept, worst = 0, 100.0
    for step, original in zip(steps, wrong, strict=False):
        if _NUMBERS.findall(step.text) != _NUMBERS.findall(original.text):
            break
        score = fuzz.ratio(" ".join(step.text.split()), " ".join(original.text.split()))
        if score < min_score:
            break
        kept, worst = kept + 1, min(worst, score)
    return kept, worst


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
