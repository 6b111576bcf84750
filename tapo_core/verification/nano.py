"""The verifier of the nano tasks, whose answers are whole numbers in a box: anything else in the box is wrong."""

import re
import time
from collections.abc import Sequence

from tapo_core.records import VerificationOutcome
from tapo_core.verification.answers import extract_answer
from tapo_core.verification.base import Question, Verdict

_WHOLE = re.compile(r"-?\d{1,100}")


class NanoVerifier:
    """Decides always: there is nothing about a whole number that could be unknown."""

    name = "nano"
    version = "1"

    def verify(self, questions: Sequence[Question]) -> list[Verdict]:
        """See `base.Verifier`."""
        return [self._verdict(question) for question in questions]

    def _verdict(self, question: Question) -> Verdict:
        begun = time.perf_counter()
        answer = extract_answer(question.text)
        if not answer:
            outcome = VerificationOutcome.NO_ANSWER
        elif _WHOLE.fullmatch(answer) and int(answer) == int(question.gold):
            outcome = VerificationOutcome.CORRECT
        else:
            outcome = VerificationOutcome.WRONG
        return Verdict(outcome, answer, "exact", milliseconds=1000 * (time.perf_counter() - begun))

    def gold_problems(self, golds: Sequence[str]) -> list[str | None]:
        """A gold answer is a whole number."""
        return [None if _WHOLE.fullmatch(gold.strip()) else "it is not a whole number" for gold in golds]

    def close(self) -> None:
        """Nothing is held."""
