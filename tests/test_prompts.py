"""Prompt templates: one pass over the fields, and the very bytes that the cold start is taught with."""

import random

import pytest

from tapo_core.config import CorrectionConfig, LocateErrorConfig
from tapo_core.correction import parse_construction
from tapo_core.error_location.policy import read_vote
from tapo_core.errors import ConfigError
from tapo_core.nano.examples import Shares, draw_attempt, task_example, task_templates
from tapo_core.nano.families import get_family
from tapo_core.prompts import SHORT, Task, load_template, numbered
from tapo_core.records import FinishReason, ParseOutcome

#: What a configuration that names no template asks with.
ASKED = {
    "micro_reflective": CorrectionConfig().template_name,
    "full_reconstruction": CorrectionConfig(mode="full_reconstruction").template_name,
    "locate_error": LocateErrorConfig().template,
}


@pytest.mark.parametrize("task", sorted(SHORT))
def test_the_cold_start_teaches_the_prompt_that_the_pipeline_asks_with(task: Task) -> None:
    rng = random.Random(0)
    problem = get_family("chain").sample(rng, 2)
    wrong, right = (draw_attempt(problem, Shares(0.5, 0.3, 1.0), rng, right=side) for side in (False, True))
    template = task_templates()[task]
    example = task_example(task, problem, wrong, right, template)
    asked = load_template(task, ASKED[task])
    assert asked == template
    texts = {"query": problem.text, "wrong": "\n".join(wrong), "reference": "\n".join(right), "steps": numbered(wrong)}
    assert asked.render(**texts) == example.prompt
    assert problem.text in example.prompt


def test_the_pipeline_reads_the_answers_that_the_cold_start_teaches() -> None:
    rng = random.Random(1)
    templates = task_templates()
    for _ in range(200):
        problem = get_family("chain").sample(rng, 3)
        wrong, right = (draw_attempt(problem, Shares(0.5, 0.3, 1.0), rng, right=side) for side in (False, True))
        index = get_family("chain").first_error(problem, wrong)
        for mode in ("micro_reflective", "full_reconstruction"):
            answer = task_example(mode, problem, wrong, right, templates[mode]).completion
            settings = CorrectionConfig.model_validate({"mode": mode})
            parsed = parse_construction(answer, FinishReason.STOP, "\n".join(wrong), "\n".join(right), settings)
            assert parsed.outcome is ParseOutcome.PARSED
            assert parsed.text is not None
            assert parsed.text.endswith(right[-1])
        answer = task_example("locate_error", problem, wrong, right, templates["locate_error"]).completion
        assert read_vote(answer, wrong).step == index


def test_fields_inside_texts_are_left_alone() -> None:
    template = load_template("micro_reflective", "micro_reflective_v1")
    rendered = template.render(query="a {wrong} query", wrong="{reference}", reference="the sibling", location="")
    assert "a {wrong} query" in rendered
    assert rendered.count("the sibling") == 1


def test_an_unknown_template_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"'nowhere': no prompt template of that name for locate_error; there are locate"
    ):
        load_template("locate_error", "nowhere")
    with pytest.raises(ConfigError, match=r"no prompt template of that name for full_reconstruction"):
        load_template("full_reconstruction", "micro_reflective_v1")


@pytest.mark.parametrize("name", ["micro_reflective_v1", "full_reconstruction_v1", "locate_error_v1"])
def test_every_template_that_is_shipped_loads(name: str) -> None:
    task = name.removesuffix("_v1")
    assert load_template(task, name).version == name  # type: ignore[arg-type]
