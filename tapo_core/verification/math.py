"""The verifier of mathematics: what a small grammar can tell in microseconds, then math-verify in a worker.

What an answer *is* comes first (`reading.read`), for the gold answer and the policy's alike; then `comparison.compare` compares
them as their kind does. Only expressions, and what the grammar cannot read, are asked of math-verify.

Tiers, in their order: *extraction* (no answer), *exact* (the same text), *number* (two plain numbers, as exact fractions: what
decides all of a benchmark of integers), *kind* (any other kind that needs no computer algebra), *guard* (too large to look at:
unknown), *symbolic*. The tier ends in *-text* where the answer was in no box.
"""

import functools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tapo_core.config_verifier import VerifierConfig
from tapo_core.records import VerificationOutcome
from tapo_core.text import one_line
from tapo_core.verification.answers import after_thinking, extract_answer, quick_number
from tapo_core.verification.base import Question, Verdict
from tapo_core.verification.comparison import compare, latex_of
from tapo_core.verification.guards import too_large
from tapo_core.verification.kinds import Answer, Collection, Quantity, Relation, SetUnion, Unread
from tapo_core.verification.likeness import Likeness
from tapo_core.verification.pool import WorkerPool
from tapo_core.verification.prose import corrected, find_answer, is_denied
from tapo_core.verification.reading import read

#: Characters at the end of a text in which an answer without a box is looked for.
END = 2000

SYMBOLIC = "symbolic"  #: the tier whose verdicts are kept for later
#: An answer from a box and a gold answer, white space evened out.
Pair = tuple[str, str]

#: What is left of a text without LaTeX's commands, and a word in that.
_COMMANDS = re.compile(r"\\(?:begin|end)\{[a-z]+\*?\}|\\[A-Za-z]+")
_SENTENCE = re.compile(r"[A-Za-z]{4,}")
#: max(1, 2), C(5, 2), set()
_FUNCTION = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{2,}|[CP])\((?:\)|[^()]*,[^()]*\))")

_OUTCOMES = {
    Likeness.SAME: VerificationOutcome.CORRECT,
    Likeness.DIFFERENT: VerificationOutcome.WRONG,
    Likeness.UNCLEAR: VerificationOutcome.UNKNOWN,
}


@dataclass(slots=True)
class _Gold:
    """A gold answer as it is compared with: the rollouts of a group all have the same."""

    text: str
    answer: Answer | None
    number: int | Fraction | None  #: where it can be read at a glance


@functools.lru_cache(maxsize=1 << 16)
def _gold(gold: str) -> _Gold:
    boxed = extract_answer(gold.replace(r"\\boxed", r"\boxed"))  # data sets that were escaped once too often
    text = (gold if boxed is None else boxed).strip()
    answer = read(text)
    if isinstance(answer, Unread) and answer.why is None:  # a whole solution, with its answer at the end
        found = find_answer(text)
        if found is not None:
            text, answer = found, read(found)
    return _Gold(text, answer, quick_number(text))


@dataclass(slots=True)
class _Open:
    """A question that a worker has to help with."""

    place: int
    gold: _Gold
    text: str | None  #: in which an answer is to be found first
    answer: str | None
    milliseconds: float


@dataclass(slots=True)
class Told:
    """What a worker answered."""

    outcome: VerificationOutcome
    answer: str | None
    reason: str | None
    milliseconds: float


class MathVerifier:
    """Final answers of mathematics."""

    name = "math"
    version = "3"

    def __init__(
        self, settings: VerifierConfig, workers: int, known: Callable[[], Iterable[tuple[Pair, str]]] | None = None
    ) -> None:
        """`known`: gives the outcomes that the symbolic tier came to earlier, when they are first needed."""
        self._settings = settings
        self._pool = WorkerPool(workers, settings.cpu_seconds, settings.memory_mib << 20)
        self._known = known
        self._lock = threading.Lock()
        self._cache: dict[Pair, str] | None = None

    def verify(self, questions: Sequence[Question]) -> list[Verdict]:
        """See `base.Verifier`."""
        verdicts: list[Verdict | None] = []
        waiting: list[_Open] = []
        for place, question in enumerate(questions):
            begun = time.perf_counter()
            told = self._at_once(question)
            milliseconds = 1000 * (time.perf_counter() - begun)
            if isinstance(told, _Open):
                told.place, told.milliseconds = place, milliseconds
                waiting.append(told)
                verdicts.append(None)
            else:
                outcome, answer, tier, reason = told
                verdicts.append(Verdict(outcome, answer, tier, reason, milliseconds))
        if waiting:
            for asked, verdict in zip(waiting, self._with_workers(waiting), strict=True):
                verdicts[asked.place] = verdict
        return [verdict for verdict in verdicts if verdict is not None]

    def _at_once(self, question: Question) -> tuple[VerificationOutcome, str | None, str, str | None] | _Open:
        """The verdict, if no worker is needed."""
        gold = _gold(question.gold)
        answer = extract_answer(question.text)
        if answer:
            again = question.finished and "inal answer" in question.text
            later = corrected(question.text) if again else None
            if later is not None and later != answer and type(read(later)) is type(read(answer)):
                return self._compared(gold, later, in_box=False)
            if answer == gold.text and not isinstance(gold.answer, Unread):
                return VerificationOutcome.CORRECT, answer, "exact", None
            if gold.number is not None:
                number = quick_number(answer)
                if number is not None:
                    same = number == gold.number
                    return (VerificationOutcome.CORRECT if same else VerificationOutcome.WRONG), answer, "number", None
            return self._compared(gold, answer, in_box=True)
        whole = after_thinking(question.text).strip() if answer is None else ""
        if not whole or self._settings.fallback == "none" or not question.finished:
            return VerificationOutcome.NO_ANSWER, answer, "extraction", None
        found = find_answer(whole[-END:])
        if found is not None:
            return self._compared(gold, found, in_box=False)
        reason = too_large(whole[-END:], END)
        if reason:
            return VerificationOutcome.UNKNOWN, None, "guard", reason
        return _Open(0, gold, whole[-END:], None, 0.0)

    def _compared(
        self, gold: _Gold, answer: str, in_box: bool
    ) -> tuple[VerificationOutcome, str | None, str, str | None] | _Open:
        """The verdict on an answer that was found, if no worker is needed."""
        found = _compare(gold, answer, lambda _gold, _answer: Likeness.OPEN)
        if found is Likeness.OPEN:
            reason = too_large(answer)
            if reason:
                return VerificationOutcome.UNKNOWN, answer, _tier("guard", in_box), reason
            if in_box:
                known = self._cached().get((one_line(answer), one_line(gold.text)))
                if known is not None:
                    return VerificationOutcome(known), answer, SYMBOLIC, None
            return _Open(0, gold, None if in_box else "", answer, 0.0)
        return _OUTCOMES[found], answer, _tier(_kind(gold, answer), in_box), _reason(found, gold, answer)

    def _with_workers(self, waiting: Sequence[_Open]) -> list[Verdict]:
        """Verdicts that need workers: answers are found first, then compared as long as computer algebra has to be asked."""
        texts = list(dict.fromkeys(asked.text for asked in waiting if asked.text))
        found = dict(zip(texts, self._ask([{"find": text} for text in texts]), strict=True))
        judged: dict[Pair, Told] = {}
        while True:
            asked_for: dict[Pair, None] = {}
            verdicts = [self._verdict(asked, found, judged, asked_for) for asked in waiting]
            if not asked_for:
                break
            questions = [{"gold": gold, "prediction": answer} for gold, answer in asked_for]
            judged |= zip(asked_for, self._ask(questions), strict=True)
        known = self._cached()
        for asked, verdict in zip(waiting, verdicts, strict=True):
            if verdict.tier == SYMBOLIC and verdict.outcome is not VerificationOutcome.UNKNOWN:
                known[one_line(asked.answer), one_line(asked.gold.text)] = str(verdict.outcome)
        return verdicts

    def _ask(self, questions: list[dict[str, str]]) -> list[Told]:
        return [
            Told(
                VerificationOutcome(answer["outcome"]),
                answer.get("answer"),
                answer.get("reason"),
                answer.get("milliseconds", 0.0),
            )
            for answer in (self._pool.ask(questions) if questions else [])
        ]

    def _verdict(
        self, asked: _Open, found: dict[str, Told], judged: dict[Pair, Told], asked_for: dict[Pair, None]
    ) -> Verdict:
        """The verdict as far as `judged` goes; what it needs beside goes into `asked_for`."""
        answer, milliseconds, in_box = asked.answer, asked.milliseconds, asked.text is None
        if asked.text:
            told = found[asked.text]
            milliseconds += told.milliseconds
            if told.answer is None:
                return Verdict(told.outcome, None, _tier(SYMBOLIC, in_box), told.reason, milliseconds)
            answer = told.answer
            if is_denied(asked.text, answer):
                why = "the text denies the answer that was found in it"
                return Verdict(VerificationOutcome.UNKNOWN, answer, _tier(SYMBOLIC, in_box), why, milliseconds)
        assert answer is not None
        used: list[Told] = []

        def ask(gold: str, prediction: str) -> Likeness:
            told = judged.get((gold, prediction))
            if told is None:
                asked_for[gold, prediction] = None
                return Likeness.OPEN
            used.append(told)
            if told.outcome is VerificationOutcome.UNKNOWN:
                return Likeness.UNCLEAR
            return Likeness.SAME if told.outcome is VerificationOutcome.CORRECT else Likeness.DIFFERENT

        reason = too_large(answer)
        if reason:
            return Verdict(VerificationOutcome.UNKNOWN, answer, _tier("guard", in_box), reason, milliseconds)
        likeness = _compare(asked.gold, answer, ask)
        if likeness is Likeness.OPEN:
            likeness = Likeness.UNCLEAR  # until it is asked again
        reasons = [told.reason for told in used if told.reason]
        reason = (reasons[0] if reasons else None) or _reason(likeness, asked.gold, answer)
        milliseconds += sum(told.milliseconds for told in used)
        tier = SYMBOLIC if used or asked_for else _kind(asked.gold, answer)
        outcome = _OUTCOMES[likeness]
        return Verdict(
            outcome,
            answer,
            _tier(tier, in_box),
            reason if outcome is VerificationOutcome.UNKNOWN else None,
            milliseconds,
        )

    def _cached(self) -> dict[Pair, str]:
        with self._lock:
            if self._cache is None:
                known = self._known() if self._known else []
                self._cache = {(one_line(answer), one_line(gold)): outcome for (answer, gold), outcome in known}
            return self._cache

    def gold_problems(self, golds: Sequence[str]) -> list[str | None]:
        """A gold answer is good if it can be read in one way, and math-verify finds its expressions equal to themselves."""
        problems: list[str | None] = []
        asked: dict[str, list[int]] = {}
        for index, gold in enumerate(golds):
            answer = _gold(gold).answer
            problem = "it is empty" if answer is None else None
            large = None if problem else too_large(gold)
            if large:
                problem = f"{large}, which no answer can be held against"
            elif isinstance(answer, Unread) and answer.why:
                problem = f"{answer.why}; write it in a way that has one meaning"
            elif isinstance(answer, Unread) and _SENTENCE.search(_COMMANDS.sub(" ", answer.text)):
                problem = "it has words in it and is no answer of a kind that can be compared"
            elif _FUNCTION.search(gold):
                problem = "it has a function of several arguments in it, which is not computed; write its value"
            elif answer is not None:
                for latex in _algebra(answer):
                    asked.setdefault(latex, []).append(index)
            problems.append(problem)
        told = self._ask([{"gold": latex, "prediction": latex} for latex in asked])
        for places, verdict in zip(asked.values(), told, strict=True):
            if verdict.outcome is not VerificationOutcome.CORRECT:
                why = verdict.reason or "math-verify does not find it equal to itself"
                for place in places:
                    problems[place] = problems[place] or why
        return problems

    def close(self) -> None:
        """End the workers."""
        self._pool.close()


def _compare(gold: _Gold, answer: str, ask: Callable[[str, str], Likeness]) -> Likeness:
    found = read(answer)
    if found is None or gold.answer is None:
        return Likeness.DIFFERENT
    return compare(gold.answer, found, ask)


def _kind(gold: _Gold, answer: str) -> str:
    """The name of the tier that compared two answers without a worker."""
    both = gold.answer, read(answer)
    return "number" if all(isinstance(one, Quantity) and one.unit is None for one in both) else "kind"


def _tier(tier: str, in_box: bool) -> str:
    return tier if in_box else f"{tier}-text"


def _reason(found: Likeness, gold: _Gold, answer: str) -> str | None:
    """Why a verdict is unknown though no worker failed. It quotes neither text: either may have to be redacted one day."""
    if found is not Likeness.UNCLEAR:
        return None
    for one, whose in ((gold.answer, "the gold answer"), (read(answer), "the answer")):
        if isinstance(one, Unread) and one.why:
            return f"{whose} has two meanings"
    return "it cannot be told whether the two mean the same: units, letters' case, base, or too few digits"


def _algebra(answer: Answer) -> Iterator[str]:
    """What of an answer computer algebra would be asked."""
    match answer:
        case Quantity():
            if answer.value is None:
                yield answer.expression.latex
        case Collection():
            for item in answer.items:
                yield from _algebra(item)
        case SetUnion():
            for part in answer.parts:
                yield from _algebra(part)
        case Relation():
            if answer.value is not None:
                yield from _algebra(answer.value)
            else:
                yield latex_of(answer)
        case Unread():
            yield latex_of(answer)
