"""Verifiers that are one Python function: nano's own, and those of installed packages."""

import logging
import time
from collections.abc import Callable, Sequence

from tapo_core.heartbeat import beat
from tapo_core.records import VerificationOutcome
from tapo_core.text import one_line, shortened
from tapo_core.verification.answers import extract_answer
from tapo_core.verification.base import Question, Verdict

_LOG = logging.getLogger(__name__)

#: Of query, gold answer and text: whether the text is right; None for unknown.
Judge = Callable[[str, str, str], bool | None]


class FunctionVerifier:
    """A function over query, gold answer and text that says whether the text is right.

    A text without an answer in a box is judged too (its outcome is then wrong, or correct): only the function knows what an
    answer looks like. What it raises is an unknown verdict.
    """

    def __init__(self, name: str, version: str, judge: Judge) -> None:
        """`version`: another one wherever any verdict may come out otherwise."""
        self.name = name
        self.version = version
        self._judge = judge

    def verify(self, questions: Sequence[Question]) -> list[Verdict]:
        """See `base.Verifier`."""
        return [self._verdict(question) for question in questions]

    def _verdict(self, question: Question) -> Verdict:
        beat()
        begun = time.perf_counter()
        reason = None
        try:
            right = self._judge(question.query, question.gold, question.text)
            if right is None:
                reason = "the function could not tell"
            elif right not in (True, False):  # whatever its signature says
                reason, right = f"the function returned {type(right).__name__}, not True, False or None", None
        except Exception as error:  # noqa: BLE001 - somebody else's code; whatever it raises is no verdict
            # The message may quote problem or text, which may have to be redacted one day: it goes to the log, not to the store.
            right, reason = None, f"error: {type(error).__name__}"
            _LOG.warning(
                "the verifier %s raised %s: %s", self.name, type(error).__name__, shortened(one_line(error), 300)
            )
        outcome = VerificationOutcome.UNKNOWN
        if right is not None:
            outcome = VerificationOutcome.CORRECT if right else VerificationOutcome.WRONG
        milliseconds = 1000 * (time.perf_counter() - begun)
        return Verdict(outcome, extract_answer(question.text), "function", reason, milliseconds)

    def gold_problems(self, golds: Sequence[str]) -> list[str | None]:
        """Only the function knows what it takes; an empty gold is none."""
        return [None if gold.strip() else "it is empty" for gold in golds]

    def close(self) -> None:
        """Nothing is held."""
