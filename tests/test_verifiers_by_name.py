"""Verifiers that installed packages offer, by entry point."""

from collections.abc import Callable

import pytest

from tapo_core.config_verifier import VerifierConfig
from tapo_core.errors import ConfigError
from tapo_core.records import VerificationOutcome
from tapo_core.verification.base import Question
from tapo_core.verification.registry import make_verifier

Offered = Callable[[str], None]

JUDGE = """
def judge(query, gold, text):
    if text == "broken":
        raise KeyError(gold)
    if text == "odd":
        return "yes"
    return None if query == "?" else text == gold
"""


def test_a_function_of_an_installed_package_is_a_verifier(
    offer_verifier: Offered, caplog: pytest.LogCaptureFixture
) -> None:
    offer_verifier(JUDGE)
    verifier = make_verifier(VerifierConfig(name="offered"), workers=1)
    assert (verifier.name, verifier.version) == ("offered", "1.2.3")
    texts = [("q", "a", "a"), ("q", "a", "b"), ("?", "a", "a"), ("q", "a", "broken"), ("q", "a", "odd")]
    verdicts = verifier.verify([Question(query, gold, text) for query, gold, text in texts])
    outcomes = VerificationOutcome
    assert [v.outcome for v in verdicts] == [outcomes.CORRECT, outcomes.WRONG, *[outcomes.UNKNOWN] * 3]
    assert [v.reason for v in verdicts[2:]] == [
        "the function could not tell",
        "error: KeyError",
        "the function returned str, not True, False or None",
    ]
    assert "the verifier offered raised KeyError: 'a'" in caplog.text, (
        "the store has no words that were not the verifier's"
    )
    assert [v.reward for v in verdicts] == [1.0, 0.0, None, None, None]
    assert verifier.gold_problems(["a", " "]) == [None, "it is empty"]


def test_a_function_may_say_its_own_version(offer_verifier: Offered) -> None:
    offer_verifier(JUDGE + "judge.version = 'of its own'\n")
    assert make_verifier(VerifierConfig(name="offered"), workers=1).version == "of its own"


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        (
            JUDGE,
            "wanted",
            r"verifier.name = 'wanted': there is none of that name; there are math, nano, code, offered\.",
        ),
        ("import nothing_like_it", "offered", "cannot be loaded: No module named 'nothing_like_it'"),
        ("judge = 3", "offered", "is no function"),
    ],
)
def test_what_is_not_there_or_cannot_be_loaded_is_named(
    offer_verifier: Offered, code: str, name: str, message: str
) -> None:
    offer_verifier(code)
    with pytest.raises(ConfigError, match=message):
        make_verifier(VerifierConfig(name=name), workers=1)


def test_running_what_the_model_wrote_must_be_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"verifier\.run_model_code"):
        make_verifier(VerifierConfig(name="code"), workers=1)
