"""Method "continuation": the attempt is cut before and after each step near a location, and continued by the policy many times.

Where the first error is, the share of right continuations falls most (after the Monte-Carlo step labels of arXiv 2312.08935). It
is a check of what an earlier method found, since every prefix costs as much as a group of rollouts.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tapo_core.error_location.base import Attempt, Location, Means, Question, Reply
from tapo_core.steps import token_end_of

METHOD = "continuation"


@dataclass(frozen=True, slots=True)
class _Prefix:
    """An attempt cut after so many steps."""

    attempt: Attempt
    n_steps: int
    token_ids: Sequence[int]  #: of the kept part


@dataclass(frozen=True, slots=True)
class _Tally:
    """How often the continuations of one prefix were right. Unknown verdicts and unasked questions count neither way."""

    kept_steps: int
    n_correct: int
    n: int
    seeds: list[int]
    outputs: list[str | None]


def locate(attempts: Sequence[Attempt], means: Means) -> list[Location]:
    """The step within `locate_error.window` of the earlier finding at which the share of right continuations falls most."""
    prefixes = [prefix for attempt in attempts for prefix in _prefixes(attempt, means)]
    questions = [
        Question(
            prefix.attempt,
            None,
            [*prefix.attempt.prompt_token_ids, *prefix.token_ids],
            means.seed(prefix.attempt, f"{METHOD}/{prefix.n_steps}", number),
            max(1, means.max_new_tokens - len(prefix.token_ids)),
            means.config.continuation_temperature,
        )
        for prefix in prefixes
        for number in range(means.config.continuations)
    ]
    replies = means.ask(questions)
    tallies: dict[str, list[_Tally]] = {}
    for place, prefix in enumerate(prefixes):
        span = slice(place * means.config.continuations, (place + 1) * means.config.continuations)
        tallies.setdefault(prefix.attempt.name, []).append(_tally(prefix, questions[span], replies[span], means))
    return [_judge(tallies.get(attempt.name, [])) for attempt in attempts]


def _prefixes(attempt: Attempt, means: Means) -> list[_Prefix]:
    """The cuts around the earlier finding, from the shortest; none without a finding."""
    earlier = means.found.get(attempt.name)
    if earlier is None or earlier.step is None:
        return []
    first = max(0, earlier.step - means.config.window)
    last = min(len(attempt.steps), earlier.step + means.config.window + 1)
    prefixes = []
    for n_steps in range(first, last + 1):
        end = attempt.steps[n_steps - 1].char_end if n_steps else 0
        n_tokens = token_end_of(attempt.token_ids_T, attempt.text, end, means.decode)
        prefixes.append(_Prefix(attempt, n_steps, attempt.token_ids_T[:n_tokens]))
    return prefixes


def _tally(prefix: _Prefix, questions: Sequence[Question], replies: Sequence[Reply | None], means: Means) -> _Tally:
    kept = means.decode(prefix.token_ids)
    verdicts = [None if r is None else means.is_correct(prefix.attempt, kept + r.text) for r in replies]
    return _Tally(
        prefix.n_steps,
        n_correct=sum(verdict is True for verdict in verdicts),
        n=sum(verdict is not None for verdict in verdicts),
        seeds=[question.seed for question in questions],
        outputs=[None if reply is None else reply.text for reply in replies],
    )


def _judge(tallies: Sequence[_Tally]) -> Location:
    """The step with the largest fall, the earliest of equals; None where nothing falls."""
    if not tallies:
        return Location(METHOD, None, "no earlier method found a step to check")
    rates = {tally.kept_steps: tally.n_correct / tally.n for tally in tallies if tally.n}
    evidence = "right continuations: " + ", ".join(
        f"{t.n_correct} of {t.n} after {t.kept_steps} steps" for t in tallies
    )
    votes = [asdict(tally) for tally in tallies]
    # With n steps kept, the next one is step n (0-based): a fall from n to n + 1 kept steps is its doing.
    falls = {n: rates[n] - rates[n + 1] for n in rates if n + 1 in rates}
    most = max(falls.values(), default=0.0)
    step = min(n for n, fall in falls.items() if fall == most) if most > 0.0 else None
    return Location(METHOD, step, evidence, votes=votes)
