"""Method "policy": the policy itself is shown the numbered steps and a correct sibling, several times, and the majority counts.

A vote names a step by its number and quotes it. The quote decides: a number without the words of its step is no evidence.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tapo_core.error_location.base import Attempt, Location, Means, Question, Reply
from tapo_core.matching import similarity
from tapo_core.prompts import load_template, numbered

METHOD = "policy"
_STEP = re.compile(r"<step>\s*(\d{1,6})\s*</step>")
_QUOTE = re.compile(r"<quote>(.*?)</quote>", re.DOTALL)
#: Least similarity (0-100) of a quote and the step it quotes.
_LEAST_MATCH = 85.0


class VoteOutcome(StrEnum):
    """What became of one vote."""

    COUNTED = "counted"
    NO_TAG = "no_tag"  #: number or quote missing, or given twice
    NO_SUCH_STEP = "no_such_step"
    QUOTE_MISMATCH = "quote_mismatch"  #: the quote is neither the named step nor exactly one other
    NOT_ASKED = "not_asked"  #: the prompt left no room for an answer


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer, read."""

    outcome: VoteOutcome
    step: int | None  #: 0-based; None unless counted


def read_vote(output: str, steps: Sequence[str]) -> Vote:
    """Read one answer. Never raises for anything a model can write.

    >>> read_vote("<step>2</step>\\n<quote>19 - 5 = 13</quote>", ["7 + 12 = 19", "19 - 5 = 13"])
    Vote(outcome=<VoteOutcome.COUNTED: 'counted'>, step=1)
    """
    numbers, quotes = _STEP.findall(output), _QUOTE.findall(output)
    if len(numbers) != 1 or len(quotes) != 1:
        return Vote(VoteOutcome.NO_TAG, None)
    named = int(numbers[0]) - 1
    if not 0 <= named < len(steps):
        return Vote(VoteOutcome.NO_SUCH_STEP, None)
    quoted = [i for i, step in enumerate(steps) if similarity(quotes[0].strip(), step) >= _LEAST_MATCH]
    if named in quoted:
        return Vote(VoteOutcome.COUNTED, named)
    if len(quoted) == 1:  # miscounted
        return Vote(VoteOutcome.COUNTED, quoted[0])
    return Vote(VoteOutcome.QUOTE_MISMATCH, None)


def majority(votes: Sequence[Vote]) -> tuple[int | None, float]:
    """The step with most votes, the earliest of equals, and its share of *all* votes; (None, 0) if none counted."""
    counts = Counter(vote.step for vote in votes if vote.step is not None)
    if not counts:
        return None, 0.0
    most = max(counts.values())
    return min(step for step, count in counts.items() if count == most), most / len(votes)


def locate(attempts: Sequence[Attempt], means: Means) -> list[Location]:
    """Ask `locate_error.votes` times about each attempt."""
    config = means.config
    template = load_template("locate_error", config.template)
    questions = [
        Question(
            attempt,
            template.render(
                query=attempt.problem, reference=attempt.reference, steps=numbered([s.text for s in attempt.steps])
            ),
            (),
            means.seed(attempt, METHOD, number),
            config.max_new_tokens,
            config.temperature,
        )
        for attempt in attempts
        for number in range(config.votes)
    ]
    replies = means.ask(questions)
    locations = []
    for place, attempt in enumerate(attempts):
        span = slice(place * config.votes, (place + 1) * config.votes)
        steps = [step.text for step in attempt.steps]
        read = [_read(reply, steps) for reply in replies[span]]
        step, agreement = majority(read)
        locations.append(
            Location(
                METHOD,
                step,
                None if step is None else steps[step],
                agreement,
                [
                    {
                        "seed": question.seed,
                        "output": None if reply is None else reply.text,
                        "outcome": vote.outcome,
                        "step": vote.step,
                    }
                    for question, reply, vote in zip(questions[span], replies[span], read, strict=True)
                ],
                template.version,
                template.sha256,
            )
        )
    return locations


def _read(reply: Reply | None, steps: Sequence[str]) -> Vote:
    return Vote(VoteOutcome.NOT_ASKED, None) if reply is None else read_vote(reply.text, steps)
