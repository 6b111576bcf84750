"""The verifier of mathematics: what a few microseconds can tell, then math-verify in a worker.

Tiers, in their order: *extraction* (no answer), *exact* (equal texts after normalisation), *number* (two plain numbers, as exact
fractions: what decides all of a benchmark of integers), *guard* (too large to look at: unknown), *symbolic*, which is
called *symbolic-text* where the answer was in no box and math-verify looked for it.
"""

import functools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from tapo_core.config_verifier import VerifierConfig
from tapo_core.records import VerificationOutcome
from tapo_core.text import one_line
from tapo_core.verification.answers import (
    after_thinking,
    as_number,
    extract_answer,
    is_bare,
    normalise,
    number_of,
    one_is_rounded,
)
from tapo_core.verification.base import Question, Verdict
from tapo_core.verification.guards import too_large
from tapo_core.verification.pool import WorkerPool

#: Characters at the end of a text in which an answer without a box is looked for.
END = 2000

SYMBOLIC = "symbolic"  #: the tier whose verdicts are kept for later
#: An answer from a box and a gold answer, white space evened out.
Pair = tuple[str, str]
#: Outcome, extracted answer, tier, reason.
_Told = tuple[VerificationOutcome, str | None, str, str | None]


@functools.lru_cache(maxsize=1 << 16)
def _gold(gold: str) -> tuple[str, Fraction | None]:
    """A gold answer normalised, and its number: the rollouts of a group all have the same."""
    plain = normalise(gold)
    return plain, number_of(plain)


class MathVerifier:
    """Final answers of mathematics."""

    name = "math"
    version = "2"

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
        open_ones: dict[tuple[str, str, bool], list[int]] = {}
        for index, question in enumerate(questions):
            begun = time.perf_counter()
            answer = extract_answer(question.text)
            verdict = None
            told = self._at_once(question, answer)
            if told is not None:
                verdict = Verdict(*told, milliseconds=1000 * (time.perf_counter() - begun))
            else:
                boxed = answer is not None
                asked = one_line(answer) if answer is not None else after_thinking(question.text)[-END:]
                open_ones.setdefault((asked, one_line(question.gold), boxed), []).append(index)
            verdicts.append(verdict)
        for places, verdict in zip(open_ones.values(), self._symbolic(list(open_ones)), strict=True):
            for place in places:
                answer = extract_answer(questions[place].text)
                verdicts[place] = verdict if answer is None else replace(verdict, extracted_answer=answer)
        return [verdict for verdict in verdicts if verdict is not None]

    def _at_once(self, question: Question, answer: str | None) -> _Told | None:
        """What the tiers say that need no worker; None if they cannot tell."""
        whole = after_thinking(question.text).strip() if answer is None else ""
        if (not answer and not whole) or (whole and (self._settings.fallback == "none" or not question.finished)):
            return VerificationOutcome.NO_ANSWER, answer, "extraction", None
        if whole and len(whole) <= END:
            answer = whole
        if answer:
            plain, (gold, expected) = normalise(answer), _gold(question.gold)
            if plain == gold:
                return VerificationOutcome.CORRECT, answer, "exact", None
            found = None if expected is None else number_of(plain)
            if found is not None and (found == expected or not one_is_rounded(answer, question.gold)):
                outcome = VerificationOutcome.CORRECT if found == expected else VerificationOutcome.WRONG
                return outcome, answer, "number", None
        reason = too_large(whole[-END:], END) if whole else too_large(answer or "")
        return (VerificationOutcome.UNKNOWN, answer, "guard", reason) if reason else None

    def _symbolic(self, asked: list[tuple[str, str, bool]]) -> list[Verdict]:
        """Verdicts on different pairs: from earlier ones where there are, from the workers where not."""
        if not asked:
            return []
        known = self._cached()
        new = [
            (prediction, gold, boxed)
            for prediction, gold, boxed in asked
            if not boxed or (prediction, gold) not in known
        ]
        questions = [{"prediction": prediction, "gold": gold, "boxed": boxed} for prediction, gold, boxed in new]
        found = dict(zip(new, self._pool.ask(questions), strict=True))
        verdicts = []
        for key in asked:
            prediction, gold, boxed = key
            answer: dict[str, Any] = found[key] if key in found else {"outcome": known[prediction, gold]}
            outcome = VerificationOutcome(answer["outcome"])
            if boxed and outcome is not VerificationOutcome.UNKNOWN:
                known[prediction, gold] = str(outcome)
            verdicts.append(
                Verdict(
                    outcome,
                    answer.get("answer"),
                    SYMBOLIC if boxed else f"{SYMBOLIC}-text",
                    answer.get("reason"),
                    answer.get("milliseconds", 0.0),
                )
            )
        return verdicts

    def _cached(self) -> dict[Pair, str]:
        with self._lock:
            if self._cache is None:
                known = self._known() if self._known else []
                self._cache = {(one_line(answer), one_line(gold)): outcome for (answer, gold), outcome in known}
            return self._cache

    def gold_problems(self, golds: Sequence[str]) -> list[str | None]:
        """A gold answer is good if it is a number, or math-verify can read it and finds it equal to itself."""
        problems: list[str | None] = []
        asked: dict[tuple[str, str, bool], list[int]] = {}
        for index, gold in enumerate(golds):
            problem = None if normalise(gold) else "it is empty"
            large = None if problem else too_large(gold)
            if large:
                problem = f"{large}, which no answer can be held against"
            elif not problem and as_number(gold) is None:
                asked.setdefault((one_line(gold), one_line(gold), is_bare(gold)), []).append(index)
            problems.append(problem)
        answers = self._symbolic(list(asked))
        for places, verdict in zip(asked.values(), answers, strict=True):
            if verdict.outcome is not VerificationOutcome.CORRECT:
                why = verdict.reason or "math-verify does not find it equal to itself"
                for place in places:
                    problems[place] = why
        return problems

    def close(self) -> None:
        """End the workers."""
        self._pool.close()
