"""The prefix matcher under simulated transcription noise, and against prefixes of other rollouts."""

import random
from collections.abc import Callable

import pytest

from tapo_core.config import CorrectionConfig
from tapo_core.correction import parse_construction
from tapo_core.records import FinishReason, ParseOutcome
from tapo_core.steps import split_steps

SUBJECTS = ["a baker", "the cyclist", "each pupil", "a farmer", "the printer", "one worker", "the pump", "a courier"]
THINGS = ["loaves", "kilometers", "pages", "apples", "sheets", "bricks", "liters", "parcels"]
ENDINGS = ["which settles this part", "so far so good", "as the question says", "by the rule above", "per hour of work"]
DIAGNOSES = [
    "Wait, the last line is wrong: that product was not computed correctly.",
    "Hmm, this step does not follow, I forgot to carry a digit.",
    "Let me check again: the sum above should be larger.",
]


def prose(rng: random.Random) -> str:
    """A solution in prose, LaTeX and equations, of six to nine steps; some steps have several sentences."""
    lines = []
    for number in range(rng.randint(6, 9)):
        i, a, b = rng.randrange(len(SUBJECTS)), rng.randint(2, 60), rng.randint(2, 60)
        lines.append(
            rng.choice(
                [
                    f"Step {number + 1}. First, {SUBJECTS[i]} makes ${a} \\cdot {b} = {a * b}$ {THINGS[i]}, "
                    f"{rng.choice(ENDINGS)}.",
                    f"We know that {SUBJECTS[i]} has {a} {THINGS[i]}. There are {b} of them in all, {rng.choice(ENDINGS)}. "
                    f"Altogether this gives ${a} + {b} = {a + b}$ {THINGS[i]} in round {number + 1}.",
                    f"Therefore $\\frac{{{a}}}{{{b}}}$ of the {THINGS[i]} remain with {SUBJECTS[i]} after round {number + 1}.",
                ]
            )
        )
    return "\n".join(lines)


def white_space(steps: list[str], rng: random.Random) -> list[str]:
    return [" ".join(word + " " * rng.randint(0, 2) for word in step.split(" ")) for step in steps]


def latex_delimiters(steps: list[str], rng: random.Random) -> list[str]:
    return [
        step.replace("$", "").replace("\\frac", "\\dfrac") if rng.random() < 0.5 else step.replace("$", "$$")
        for step in steps
    ]


def one_percent_edits(steps: list[str], rng: random.Random) -> list[str]:
    """Letters are lost, doubled or changed; digits are claims and stay."""

    def edit(c: str) -> str:
        return rng.choice(["", c + c, "x"]) if c.isalpha() and rng.random() < 0.01 else c

    return ["".join(edit(c) for c in step) for step in steps]


def dropped_sentence(steps: list[str], rng: random.Random) -> list[str]:
    """A sentence inside a step, or a step that is not the last."""
    place = rng.randrange(len(steps))
    sentences = steps[place].split(". ")
    if len(sentences) > 2:
        dropped = rng.randrange(len(sentences) - 1)
        kept = ". ".join(s for i, s in enumerate(sentences) if i != dropped)
        return [*steps[:place], kept, *steps[place + 1 :]]
    return steps if place == len(steps) - 1 else [*steps[:place], *steps[place + 1 :]]


def ellipsis(steps: list[str], rng: random.Random) -> list[str]:
    if len(steps) > 2 and rng.random() < 0.5:
        return [steps[0], "...", steps[-1]]
    words = steps[0].split(" ")
    cut = max(3, len(words) // 3)
    return [" ".join([*words[:cut], "...", *words[-cut:]]), *steps[1:]]


def construct(prefix: list[str], rng: random.Random) -> str:
    body = "\n".join([*prefix, rng.choice(DIAGNOSES), "So the right value follows.", "Answer: \\boxed{5}"])
    return f"<analysis>One line is wrong.</analysis>\n<reconstruction>{body}</reconstruction>"


@pytest.mark.parametrize("noise", [white_space, latex_delimiters, one_percent_edits, dropped_sentence, ellipsis])
def test_the_boundary_is_found_under_noise(noise: Callable[[list[str], random.Random], list[str]]) -> None:
    rng, right, n = random.Random(1), 0, 400
    for _ in range(n):
        wrong = prose(rng)
        steps = [step.text for step in split_steps(wrong)]
        kept = rng.randint(2, len(steps) - 1)
        parsed = parse_construction(
            construct(noise(steps[:kept], rng), rng), FinishReason.STOP, wrong, "", CorrectionConfig()
        )
        right += parsed.outcome is ParseOutcome.PARSED and parsed.prefix_steps == kept
    assert right >= 0.97 * n


def test_no_prefix_of_another_rollout_is_accepted() -> None:
    rng = random.Random(2)
    for _ in range(400):
        wrong, foreign = prose(rng), [step.text for step in split_steps(prose(rng))]
        if rng.random() < 0.5:  # a sibling often begins in the same way
            foreign = [split_steps(wrong)[0].text, *foreign]
        parsed = parse_construction(construct(foreign[:4], rng), FinishReason.STOP, wrong, "", CorrectionConfig())
        assert parsed.outcome in (ParseOutcome.PREFIX_MISMATCH, ParseOutcome.NO_DIAGNOSIS), parsed


def test_a_silent_repair_is_not_the_same_step() -> None:
    wrong = "We have 7 + 12 = 19 apples.\nThen 19 - 5 = 13 apples are left.\nSo the answer is \\boxed{13}."
    repaired = ["We have 7 + 12 = 19 apples.", "Then 19 - 5 = 14 apples are left."]
    parsed = parse_construction(construct(repaired, random.Random(0)), FinishReason.STOP, wrong, "", CorrectionConfig())
    assert parsed.outcome is ParseOutcome.NO_DIAGNOSIS
    assert parsed.prefix_steps == 1
