"""Prompt templates: one pass over the fields, and the very bytes that the cold start is taught with."""

import pytest

from tapo_core.errors import ConfigError
from tapo_core.nano.examples import CONSTRUCTION_PROMPT, construction_template, render_construction_prompt
from tapo_core.prompts import load_template


def test_the_cold_start_and_the_pipeline_render_the_same_prompt() -> None:
    taught = render_construction_prompt(construction_template(), "q", "w", "r")
    assert load_template(CONSTRUCTION_PROMPT).render("q", "w", "r") == taught


def test_fields_inside_texts_are_left_alone() -> None:
    rendered = load_template("micro_reflective_v1").render("a {wrong} query", "{reference}", "the sibling")
    assert "a {wrong} query" in rendered
    assert rendered.count("the sibling") == 1


def test_an_unknown_template_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'nowhere': no such prompt template; there are micro_reflective"):
        load_template("nowhere")
