"""What a verifier is: something that says of a text whether its final answer is the gold answer.

Four outcomes: correct, wrong, no answer (reward 1, 0, 0), and *unknown*, which is no reward at all. Whatever breaks, takes too
long or is too large to look at is unknown, never wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tapo_core.records import VerificationOutcome


@dataclass(frozen=True, slots=True)
class Question:
    """One text to judge."""

    query: str  #: the problem
    gold: str  #: the gold answer as the data set has it
    text: str  #: what the policy wrote
    finished: bool = True  #: False: it was cut off, and only what is marked as the answer counts


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one verifier said about one text."""

    outcome: VerificationOutcome
    extracted_answer: str | None
    tier: str  #: the method that decided, for example "exact", "number" or "symbolic"
    reason: str | None = None  #: set exactly when the outcome is unknown
    milliseconds: float = 0.0  #: by the clock; a measure of the machine, and in no digest

    @property
    def reward(self) -> float | None:
        """1 for correct, 0 for wrong and no answer, None for unknown."""
        if self.outcome is VerificationOutcome.UNKNOWN:
            return None
        return 1.0 if self.outcome is VerificationOutcome.CORRECT else 0.0


class Verifier(Protocol):
    """Judges texts. May be called from several threads at once."""

    name: str
    version: str  #: another one where any verdict may come out otherwise

    def verify(self, questions: Sequence[Question]) -> list[Verdict]:
        """A verdict for each question, in order. Never raises for what a model wrote.

        Raises:
            TransientError: the verifier itself cannot work at all now.
        """
        ...

    def gold_problems(self, golds: Sequence[str]) -> list[str | None]:
        """What is wrong with each gold answer, in words; None for one that answers can be held against."""
        ...

    def close(self) -> None:
        """Free what it holds. It can be used again."""
        ...
