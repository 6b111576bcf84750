"""Cold-start examples: what the nano model is taught before reinforcement learning. Standard library only.

Three kinds, after the paper's cold start: *direct* answers, *reflective* answers (an error, a diagnosis, a correction) and
*constructions* (given a wrong and a right attempt, write the analysis and the reconstruction in tags). A share of the direct
answers is wrong: a policy that makes slips now and then is what reinforcement learning and micro-reflection are for.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from tapo_core.nano.families import get_family, sample_in_split
from tapo_core.nano.task import Problem

CONSTRUCTION_PROMPT = "micro_reflective_short_v1"

Kind = Literal["direct", "slip", "reflective", "construction"]


@dataclass(frozen=True, slots=True)
class Example:
    """One exchange: the user's message and the answer that is learnt."""

    kind: Kind
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Shares:
    """The mix of examples. Each is a share of all examples; what is left are right direct answers."""

    slip: float
    reflective: float
    construction: float


def construction_template() -> str:
    """The text of the prompt that asks for a construction, with {query}, {wrong} and {reference} to fill in."""
    return (files("tapo_core.prompts") / f"{CONSTRUCTION_PROMPT}.txt").read_text(encoding="utf-8")


def render_construction_prompt(template: str, query: str, wrong: str, reference: str) -> str:
    """The template, filled in. Braces inside the texts are safe (they are never read as fields)."""
    # The query goes last: it is the one text here that was not written by a model, and the least likely to hold a field.
    return template.replace("{wrong}", wrong).replace("{reference}", reference).replace("{query}", query)


def construction_output(analysis: str, reconstruction: Sequence[str]) -> str:
    """The tagged answer to a construction prompt."""
    body = "\n".join(reconstruction)
    return f"<analysis>{analysis}</analysis>\n<reconstruction>{body}</reconstruction>"


def construction_example(problem: Problem, wrong: Sequence[str], reference: Sequence[str], template: str) -> Example:
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
        render_construction_prompt(template, problem.text, "\n".join(wrong), "\n".join(reference)),
        construction_output(
            family.describe_error(problem, wrong, index), family.reconstruct(problem, wrong, index).steps()
        ),
    )


def sample_example(mix: Sequence[tuple[str, int]], shares: Shares, template: str, rng: random.Random) -> Example:
    """A random example on a problem of the training split."""
    name, level = rng.choice(mix)
    family = get_family(name)
    problem = sample_in_split(family, level, rng, "train")
    draw = rng.random()
    if draw < shares.construction:
        wrong, _ = family.wrong_solution(problem, rng)
        # Right attempts of the model reflect now and then, so references must too.
        reflects = rng.random() < shares.reflective
        reference = family.reflective_solution(problem, rng) if reflects else family.solution(problem)
        return construction_example(problem, wrong, reference, template)
    draw -= shares.construction
    if draw < shares.reflective:
        return Example("reflective", problem.text, "\n".join(family.reflective_solution(problem, rng)))
    if draw < shares.reflective + shares.slip:
        return Example("slip", problem.text, "\n".join(family.wrong_solution(problem, rng)[0]))
    return Example("direct", problem.text, "\n".join(family.solution(problem)))
