"""What a method of error location is given, and what it answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tapo_core.config import LocateErrorConfig
from tapo_core.records import FinishReason
from tapo_core.steps import Step


@dataclass(frozen=True, slots=True)
class Attempt:
    """One wrong rollout, with what a method may look at."""

    name: str  #: tells attempts apart: the rollout id
    problem: str  #: the query's text, without the run's instruction
    gold: str
    family: str | None
    level: int | None
    text: str  #: of the wrong rollout
    steps: Sequence[Step]
    reference: str  #: text of a correct sibling
    prompt_token_ids: Sequence[int] = ()  #: the plain query prompt
    token_ids_T: Sequence[int] = ()  #: the wrong rollout's own


@dataclass(frozen=True, slots=True)
class Location:
    """Where one method sees the first error.

    `step` is None where it sees none or cannot say, which is not the same as "no error".
    """

    method: str
    step: int | None  #: 0-based
    evidence: str | None
    agreement: float | None = None  #: share of all votes that are for `step`
    votes: Sequence[Mapping[str, Any]] = field(default_factory=tuple)  #: what was sampled to find it, as plain data
    prompt_version: str | None = None
    prompt_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One text to sample from the policy that wrote the attempt. `message` is a user's turn; else the ids are continued."""

    attempt: Attempt
    message: str | None
    token_ids: Sequence[int]
    seed: int
    max_new_tokens: int
    temperature: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What was sampled; None for a question whose prompt left no room."""

    text: str
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Means:
    """What a method may use beside the attempts themselves. A method that only reads texts uses none of it."""

    config: LocateErrorConfig
    max_new_tokens: int  #: of a rollout
    ask: Callable[[Sequence[Question]], list[Reply | None]]
    seed: Callable[[Attempt, str, int], int]  #: attempt, purpose, number -> seed
    is_correct: Callable[[Attempt, str], bool | None]  #: whether a whole answer is right; None for an unknown verdict
    decode: Callable[[Sequence[int]], str]
    #: What earlier methods of the list found: attempt name -> the first location with a step.
    found: Mapping[str, Location]


class Method(Protocol):
    """A method: one `Location` for each attempt, in order."""

    def __call__(self, attempts: Sequence[Attempt], means: Means, /) -> list[Location]:
        """Look at all attempts together, so that what is sampled for them is one batch."""
        ...
