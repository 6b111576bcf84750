"""Diagnose and correct: from the policy's raw construction to a constructed trajectory.

The policy is asked for

    <analysis>what is wrong</analysis>
    <reconstruction>the wrong rollout up to and including its first error, a diagnosis, the correction</reconstruction>

The kept prefix always comes from the wrong rollout's own tokens; the transcription is only matched against it, step by step.
In the ablation "full reconstruction" the prefix is discarded: the reconstruction is a whole new solution. Whatever does not
parse is an outcome (`ParseOutcome`), stored and counted, never trained on.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tapo_core.config import CorrectionConfig
from tapo_core.matching import is_ellipsis, similarity
from tapo_core.records import FinishReason, ParseOutcome
from tapo_core.steps import Step, split_steps

_TAGS = ("analysis", "reconstruction")
_WORDS = re.compile(r"[^\W\d_]{2,}")
_LEAK = re.compile(
    r"\b(?:reference|(?:correct|other|second|given) (?:attempt|solution|rollout)|wrong attempt)\b", re.IGNORECASE
)
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
    text: str | None = None  #: the constructed trajectory; None unless it parsed


def parse_construction(
    raw_output: str, finish_reason: FinishReason, wrong_text: str, reference_text: str, config: CorrectionConfig
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
    if config.mode == "full_reconstruction":
        whole = sections["reconstruction"]
        if not whole:
            return Construction(ParseOutcome.NO_CORRECTION, "the reconstruction is empty", sections["analysis"])
        if whole.split() == wrong_text.split():
            return Construction(ParseOutcome.NO_ERROR_LEFT, "it is the wrong rollout again", sections["analysis"])
        parsed = Construction(ParseOutcome.PARSED, None, sections["analysis"], correction=whole, text=whole)
    else:
        parsed = _micro_reflective(sections["analysis"], sections["reconstruction"], wrong_text, config)
    if parsed.outcome is ParseOutcome.PARSED:
        leak = _leak(parsed, reference_text, config.max_copied_words)
        if leak is not None:
            return replace(parsed, outcome=ParseOutcome.LEAKS_REFERENCE, detail=leak, text=None)
    return parsed


def _micro_reflective(analysis: str, body: str, wrong_text: str, config: CorrectionConfig) -> Construction:
    """The wrong rollout's prefix, then a diagnosis, then a correction."""
    steps, wrong_steps = split_steps(body), split_steps(wrong_text)
    read, kept, score = _match_prefix(steps, wrong_steps, config.min_prefix_match)
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
    correction = body[rest[0].char_end :].strip("\n")
    if not correction.strip():
        detail = "nothing follows the diagnosis"
        return Construction(ParseOutcome.NO_CORRECTION, detail, analysis, kept, char_end, score, diagnosis)
    tail = wrong_text[char_end:]
    # What parted the steps in the rollout parts the diagnosis from the prefix: "\n", or "\n\n" between paragraphs.
    separator = tail[: len(tail) - len(tail.lstrip())]
    if "\n" not in separator:
        separator = "\n"
    text = f"{wrong_text[:char_end]}{separator}{diagnosis}\n{correction}"
    return Construction(ParseOutcome.PARSED, None, analysis, kept, char_end, score, diagnosis, correction, text)


def _leak(parsed: Construction, reference_text: str, max_copied_words: int) -> str | None:
    """How what the policy wrote gives away that it was shown a reference; None if it does not."""
    written = "\n".join(part for part in (parsed.diagnosis, parsed.correction) if part)
    said = _LEAK.search(written)
    if said is not None:
        return f"it says {said[0]!r}"
    if max_copied_words == 0:
        return None
    n = max_copied_words + 1
    shown = _runs(reference_text, n)
    copied = next((run for run in _runs(parsed.correction or "", n) if run in shown), None)
    return None if copied is None else f"it copies {n} words or more: {' '.join(copied)[:80]!r}"


def _runs(text: str, n: int) -> dict[tuple[str, ...], None]:
    """Every run of n words, in order."""
    words = text.split()
    return dict.fromkeys(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _match_prefix(steps: Sequence[Step], wrong: Sequence[Step], min_score: float) -> tuple[int, int, float]:
    """How many leading steps transcribe the wrong rollout, how many of its steps they cover, and the least similarity (0-100).

    A transcription may skip a step, or many where it writes an ellipsis: what counts is where it arrives, since the prefix
    itself is taken from the rollout.
    """
    read, kept, worst, gap = 0, 0, 100.0, False
    for index, step in enumerate(steps):
        if is_ellipsis(step.text):
            gap = True
            continue
        reach = len(wrong) if gap else min(len(wrong), kept + 2)
        scores = ((place, similarity(step.text, wrong[place].text)) for place in range(kept, reach))
        found = next(((place, score) for place, score in scores if score >= min_score), None)
        if found is None:
            break
        read, kept, worst, gap = index + 1, found[0] + 1, min(worst, found[1]), False
    return read, kept, worst


def tokens_within(token_ids_T: Sequence[int], n_chars: int, decode: Callable[[Sequence[int]], str]) -> int:
    """How many leading tokens lie wholly within the first so many characters of their text."""
    low, high = 0, len(token_ids_T)
    while low < high:
        middle = (low + high + 1) // 2
        if len(decode(token_ids_T[:middle])) <= n_chars:
            low = middle
        else:
            high = middle - 1
    return low


def constructed_tokens(
    constructed_text: str,
    wrong_token_ids_T: Sequence[int],
    encode: Callable[[str], list[int]],
    decode: Callable[[Sequence[int]], str],
    end_token: int,
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
    return [*own, *encode(constructed_text[len(decode(own)) :]), end_token], low
