"""Cold-start examples: what the nano model is taught before reinforcement learning. Standard library only.

*Attempts* at a problem; and, given a wrong and a right attempt, the tasks that the pipeline asks a policy for (after the paper's
cold start): *constructions* in tags, with the wrong prefix kept or discarded, and the *location* of the first error. Every step
of an attempt slips at one rate, and every slip is noticed, diagnosed and made again at another. The steps are independent, so
that neither a noticed slip nor luck so far tells anything of the steps to come: a policy gains by making fewer slips, or by
noticing more of them, and not by the mere form of a reflective answer.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tapo_core.nano.families import get_family, sample_in_split
from tapo_core.nano.task import Problem, TaskFamily, answer_line
from tapo_core.prompts import SHORT, Task, Template, load_template, numbered

#: Shares of the tasks among the examples that are not attempts.
_TASK_SHARES: Mapping[Task, float] = {"micro_reflective": 0.75, "full_reconstruction": 0.08, "locate_error": 0.17}

#: Attempts drawn for one that is right, or wrong.
_MAX_DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Example:
    """One exchange: the user's message and the answer that is learnt."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Shares:
    """The mix of examples: how attempts go, and the share of the pipeline's tasks among all examples."""

    slip: float
    notice: float
    construction: float


def task_templates() -> dict[Task, Template]:
    """The prompts of the tasks: those that the pipeline asks the built-in model with."""
    return {task: load_template(task, version) for task, version in SHORT.items()}


def task_example(
    task: Task, problem: Problem, wrong: Sequence[str], reference: Sequence[str], template: Template
) -> Example:
    """A task for a wrong attempt.

    Raises:
        ValueError: the attempt has no wrong step.
    """
    family = get_family(problem.family)
    index = family.first_error(problem, wrong)
    if index is None:
        raise ValueError("the wrong attempt has no wrong step")
    prompt = template.render(
        query=problem.text, wrong="\n".join(wrong), reference="\n".join(reference), steps=numbered(wrong)
    )
    return Example(prompt, _ANSWERS[task](family, problem, wrong, index))


def _construction(family: TaskFamily, problem: Problem, wrong: Sequence[str], index: int) -> str:
    return _tagged(family.describe_error(problem, wrong, index), family.reconstruct(problem, wrong, index).steps())


def _full_reconstruction(family: TaskFamily, problem: Problem, wrong: Sequence[str], index: int) -> str:
    return _tagged(family.describe_error(problem, wrong, index), family.solution(problem))


def _location(_family: TaskFamily, _problem: Problem, wrong: Sequence[str], index: int) -> str:
    checked = "".join(f"{number} right\n" for number in range(1, index + 1))
    return f"{checked}{index + 1} wrong\n<step>{index + 1}</step>\n<quote>{wrong[index]}</quote>"


_ANSWERS: Mapping[Task, Callable[[TaskFamily, Problem, Sequence[str], int], str]] = {
    "micro_reflective": _construction,
    "full_reconstruction": _full_reconstruction,
    "locate_error": _location,
}


def _tagged(analysis: str, reconstruction: Sequence[str]) -> str:
    body = "\n".join(reconstruction)
    return f"<analysis>{analysis}</analysis>\n<reconstruction>{body}</reconstruction>"


def sample_example(
    mix: Sequence[tuple[str, int]], shares: Shares, templates: Mapping[Task, Template], rng: random.Random
) -> Example:
    """A random example on a problem of the training split."""
    name, level = rng.choice(mix)
    problem = sample_in_split(get_family(name), level, rng, "train")
    if rng.random() < shares.construction:
        (task,) = rng.choices(list(_TASK_SHARES), list(_TASK_SHARES.values()))
        wrong = draw_attempt(problem, shares, rng, right=False)
        reference = draw_attempt(problem, shares, rng, right=True)
        return task_example(task, problem, wrong, reference, templates[task])
    attempt = get_family(name).attempt(problem, shares.slip, shares.notice, rng)
    return Example(problem.text, "\n".join(attempt.steps))


def draw_attempt(problem: Problem, shares: Shares, rng: random.Random, *, right: bool) -> list[str]:
    """The steps of an attempt with a right, or a wrong, answer."""
    family = get_family(problem.family)
    for _ in range(_MAX_DRAWS):
        steps = family.attempt(problem, shares.slip, shares.notice, rng).steps
        if (steps[-1] == answer_line(problem.answer)) == right:
            return list(steps)
    raise ValueError(
        f"{_MAX_DRAWS} attempts with slip_rate = {shares.slip} and notice_rate = {shares.notice} gave no "
        f"{'right' if right else 'wrong'} one; set rates that give both"
    )
