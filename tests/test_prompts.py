"""Prompt templates: one pass over the fields, and the very bytes that the cold start is taught with."""

import random
import re

import pytest

from tapo_core.config import CorrectionConfig
from tapo_core.errors import ConfigError
from tapo_core.nano.examples import Shares, construction_template, sample_example
from tapo_core.prompts import load_template


def test_the_cold_start_teaches_the_prompt_that_the_pipeline_asks_with() -> None:
    rng = random.Random(0)
    example = sample_example([("chain", 2)], Shares(0.5, 0.3, 1.0), construction_template(), rng)
    asked = load_template(CorrectionConfig().template)
    assert asked == construction_template()
    query, reference, wrong = (part.strip("\n") for part in re.split(r"(?m)^[A-Z][a-z ]+:$", example.prompt)[1:])
    wrong = wrong.rsplit("\n", 1)[0]  # the last line is the task
    assert asked.render(query, wrong, reference) == example.prompt


def test_fields_inside_texts_are_left_alone() -> None:
    rendered = load_template("micro_reflective_v1").render("a {wrong} query", "{reference}", "the sibling")
    assert "a {wrong} query" in rendered
    assert rendered.count("the sibling") == 1


def test_an_unknown_template_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'nowhere': no such prompt template; there are micro_reflective"):
        load_template("nowhere")
