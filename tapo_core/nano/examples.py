"""Cold-start examples: what the nano model is taught before reinforcement learning. Standard library only.

Two kinds, after the paper's cold start: *attempts* at a problem, and *constructions* (given a wrong and a right attempt, write
the analysis and the reconstruction in tags). Every step of an attempt slips at one rate, and every slip is noticed, diagnosed
and made again at another. The steps are independent, so that neither a noticed slip nor luck so far tells anything of the steps
to come: a policy gains by making fewer slips, or by noticing more of them, and not by the mere form of a reflective answer.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tapo_core.nano.families import get_family, sample_in_split
from tapo_core.nano.task import Problem, answer_line
from tapo_core.prompts import Template, load_template

CONSTRUCTION_PROMPT = "micro_reflective_short_v2"

Kind = Literal["attempt", "construction"]

#: Attempts drawn for one that is right, or wrong.
_MAX_DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Example:
    """One exchange: the user's message and the answer that is learnt."""

    kind: Kind
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Shares:
    """The mix of examples: how attempts go, and the share of constructions among all examples."""

    slip: float
    notice: float
    construction: float


def construction_template() -> Template:
    """The prompt that asks for a construction: the one that the pipeline asks with."""
    return load_template(CONSTRUCTION_PROMPT)


def construction_output(analysis: str, reconstruction: Sequence[str]) -> str:
    """The tagged answer to a construction prompt."""
    body = "\n".join(reconstruction)
    return f"<analysis>{analysis}</analysis>\n<reconstruction>{body}</reconstruction>"


def construction_example(
    problem: Problem, wrong: Sequence[str], reference: Sequence[str], template: Template
) -> Example:
    """The construction task for a wrong attempt.

    Raises:
        ValueError: the attempt has no wrong step.
    """
    family = get_family(problem.family)
    index = family.first_error(problem, wrong)
    if index is None:
        raise ValueError("the wrong attempt has no wrong step")
    return Example(
        "construction",
        template.render(problem.text, "\n".join(wrong), "\n".join(reference)),
        construction_output(
            family.describe_error(problem, wrong, index), family.reconstruct(problem, wrong, index).steps()
        ),
    )


def sample_example(mix: Sequence[tuple[str, int]], shares: Shares, template: Template, rng: random.Random) -> Example:
    """A random example on a problem of the training split."""
    name, level = rng.choice(mix)
    problem = sample_in_split(get_family(name), level, rng, "train")
    if rng.random() < shares.construction:
        wrong = draw_attempt(problem, shares, rng, right=False)
        reference = draw_attempt(problem, shares, rng, right=True)
        return construction_example(problem, wrong, reference, template)
    return Example(
        "attempt", problem.text, "\n".join(get_family(name).attempt(problem, shares.slip, shares.notice, rng))
    )


def draw_attempt(problem: Problem, shares: Shares, rng: random.Random, *, right: bool) -> list[str]:
    """An attempt with a right, or a wrong, answer."""
    family = get_family(problem.family)
    for _ in range(_MAX_DRAWS):
        steps = family.attempt(problem, shares.slip, shares.notice, rng)
        if (steps[-1] == answer_line(problem.answer)) == right:
            return steps
    raise ValueError(
        f"{_MAX_DRAWS} attempts with slip_rate = {shares.slip} and notice_rate = {shares.notice} gave no "
        f"{'right' if right else 'wrong'} one; set rates that give both"
    )
