"""Steps, token spans, and taking constructions apart."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapo_core.config import CorrectionConfig
from tapo_core.correction import Construction, constructed_tokens, parse_construction
from tapo_core.records import FinishReason, ParseOutcome
from tapo_core.steps import split_steps, token_end_of

WRONG = "7 + 12 = 19\n19 - 5 = 13\n13 + 9 = 22\nAnswer: \\boxed{22}"
DIAGNOSIS = "Wait, 19 - 5 is not 13. Let me redo this step."
CORRECTION = "19 - 5 = 14\n14 + 9 = 23\nAnswer: \\boxed{23}"


def output(reconstruction: str, analysis: str = "Line 2 is wrong.") -> str:
    return f"<analysis>{analysis}</analysis>\n<reconstruction>{reconstruction}</reconstruction>"


def parse(
    raw: str,
    finish: FinishReason = FinishReason.STOP,
    wrong: str = WRONG,
    reference: str = CORRECTION,
    **settings: object,
) -> Construction:
    return parse_construction(raw, finish, wrong, reference, CorrectionConfig.model_validate(settings))


@given(st.text(alphabet=st.sampled_from("a1 \n"), max_size=60))
def test_steps_are_the_non_empty_lines_in_place(text: str) -> None:
    steps = split_steps(text)
    assert [text[s.char_start : s.char_end] for s in steps] == [s.text for s in steps]
    assert [s.text for s in steps] == [line for line in text.split("\n") if line.strip()]
    assert [s.index for s in steps] == list(range(len(steps)))


PROSE = (
    "We are given that the bakery sells 12 loaves, e.g. on Monday. It sells 5 more than that on Tuesday, so we have 17 of them. "
    "Adding both gives $12 + 17. It is$ a sum of 29 loaves! Therefore No. 3 is right. Altogether 29 loaves are sold."
)


def test_long_prose_is_split_into_sentences_but_not_at_abbreviations_or_in_formulas() -> None:
    steps = split_steps(f"First line. Second sentence of a short line.\n{PROSE}")
    assert [s.text for s in steps] == [
        "First line. Second sentence of a short line.",
        "We are given that the bakery sells 12 loaves, e.g. on Monday.",
        "It sells 5 more than that on Tuesday, so we have 17 of them.",
        "Adding both gives $12 + 17. It is$ a sum of 29 loaves!",
        "Therefore No. 3 is right.",
        "Altogether 29 loaves are sold.",
    ]


def test_a_displayed_formula_is_one_step() -> None:
    text = "So\n\\[\n3 + 4 = 7\n\\]\nand $$x = 2$$ here\n\\begin{align}\na &= 1 \\\\\nb &= 2\n\\end{align}\nDone. \\[ open\nend"
    assert [s.text for s in split_steps(text)] == [
        "So",
        "\\[\n3 + 4 = 7\n\\]",
        "and $$x = 2$$ here",
        "\\begin{align}\na &= 1 \\\\\nb &= 2\n\\end{align}",
        "Done. \\[ open",
        "end",
    ]


PIECES = st.sampled_from(
    ["\\[", "\\]", "$$", "\n", "\\begin{align}", "\\end{align}", "Then it holds. ", "x = 3 ", PROSE]
)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_steps_cover_all_that_is_not_white_space_in_order(text: str) -> None:
    steps = split_steps(text)
    assert all(text[s.char_start : s.char_end] == s.text and s.text.strip() for s in steps)
    assert "".join("".join(s.text.split()) for s in steps) == "".join(text.split())
    assert all(a.char_end <= b.char_start for a, b in pairwise(steps))


def decode(ids: object) -> str:
    """Byte-level, as real tokenizers are: a prefix can end inside a character."""
    return bytes(ids).decode("utf-8", "replace")  # type: ignore[call-overload]


@given(st.text(min_size=1, max_size=40), st.data())
def test_token_end_is_the_least_prefix_that_covers_the_characters(text: str, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(text)))
    ids = list(text.encode("utf-8"))
    assert token_end_of(ids, text, end, decode) == len(text[:end].encode("utf-8"))


def test_a_span_beyond_the_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="beyond"):
        token_end_of([65], "A", 2, decode)


def test_a_good_construction_is_prefix_diagnosis_and_correction() -> None:
    kept = "7 + 12 = 19\n19 - 5 = 13"
    parsed = parse(output(f"{kept}\n{DIAGNOSIS}\n{CORRECTION}"))
    assert parsed.outcome is ParseOutcome.PARSED
    assert (parsed.prefix_steps, parsed.prefix_char_end, parsed.match_score) == (2, len(kept), 100.0)
    assert (parsed.analysis, parsed.diagnosis, parsed.correction) == ("Line 2 is wrong.", DIAGNOSIS, CORRECTION)
    assert parsed.text == f"{kept}\n{DIAGNOSIS}\n{CORRECTION}"


def test_the_prefix_is_the_rollouts_own_text_not_the_transcription() -> None:
    parsed = parse(output(f"7 +  12 = 19\n{DIAGNOSIS}\n{CORRECTION}"))
    assert parsed.outcome is ParseOutcome.PARSED
    assert (parsed.text or "").startswith("7 + 12 = 19\n")


def test_paragraphs_stay_paragraphs() -> None:
    wrong = WRONG.replace("\n", "\n\n")
    parsed = parse(output(f"7 + 12 = 19\n\n19 - 5 = 13\n\n{DIAGNOSIS}\n\n{CORRECTION}"), wrong=wrong)
    assert (parsed.text or "").startswith(f"7 + 12 = 19\n\n19 - 5 = 13\n\n{DIAGNOSIS}\n")


@pytest.mark.parametrize(
    ("raw", "finish", "outcome"),
    [
        ("no tags at all", FinishReason.STOP, ParseOutcome.NO_TAG),
        ("<analysis>a</analysis> <reconstruction>never closed", FinishReason.STOP, ParseOutcome.NO_TAG),
        (output("x") + output("x"), FinishReason.STOP, ParseOutcome.NO_TAG),
        ("<analysis>a</analysis> <reconstruction>cut off", FinishReason.LENGTH, ParseOutcome.TRUNCATED),
        (output(f"3 + 3 = 6\n{DIAGNOSIS}\n{CORRECTION}"), FinishReason.STOP, ParseOutcome.PREFIX_MISMATCH),
        (output(WRONG), FinishReason.STOP, ParseOutcome.NO_ERROR_LEFT),
        (output("7 + 12 = 19\n19 - 5 = 13"), FinishReason.STOP, ParseOutcome.NO_CORRECTION),
        (output(f"7 + 12 = 19\n19 - 5 = 13\n{DIAGNOSIS}"), FinishReason.STOP, ParseOutcome.NO_CORRECTION),
        # The error is repaired in silence: nothing is said about it.
        (output(f"7 + 12 = 19\n{CORRECTION}"), FinishReason.STOP, ParseOutcome.NO_DIAGNOSIS),
        (
            output(f"7 + 12 = 19\n19 - 5 = 13\nThe correct attempt has 14 here, not 13.\n{CORRECTION}"),
            FinishReason.STOP,
            ParseOutcome.LEAKS_REFERENCE,
        ),
    ],
)
def test_every_way_to_fail_has_a_name(raw: str, finish: FinishReason, outcome: ParseOutcome) -> None:
    parsed = parse(raw, finish)
    assert parsed.outcome is outcome
    assert parsed.detail
    assert parsed.text is None


def test_a_full_reconstruction_discards_the_prefix() -> None:
    whole = f"7 + 12 = 19\n{CORRECTION}"
    parsed = parse(output(whole), mode="full_reconstruction")
    assert (parsed.outcome, parsed.text, parsed.correction) == (ParseOutcome.PARSED, whole, whole)
    assert (parsed.prefix_steps, parsed.diagnosis, parsed.analysis) == (None, None, "Line 2 is wrong.")
    assert parse(output("  "), mode="full_reconstruction").outcome is ParseOutcome.NO_CORRECTION
    assert parse(output(WRONG), mode="full_reconstruction").outcome is ParseOutcome.NO_ERROR_LEFT
    leak = parse(output("As in the reference, 23."), mode="full_reconstruction")
    assert (leak.outcome, leak.text) == (ParseOutcome.LEAKS_REFERENCE, None)


def test_copying_the_reference_is_a_leak_where_it_is_forbidden() -> None:
    raw = output(f"7 + 12 = 19\n19 - 5 = 13\n{DIAGNOSIS}\n{CORRECTION}")
    assert len(CORRECTION.split()) == 12
    assert parse(raw).outcome is ParseOutcome.PARSED
    assert parse(raw, max_copied_words=12).outcome is ParseOutcome.PARSED
    copied = parse(raw, max_copied_words=11)
    assert (copied.outcome, copied.text) == (ParseOutcome.LEAKS_REFERENCE, None)
    assert "copies 12 words" in (copied.detail or "")
    assert parse(raw, reference="Another way.", max_copied_words=1).outcome is ParseOutcome.PARSED


@given(st.text(max_size=300), st.sampled_from(list(FinishReason)), st.text(max_size=100))
def test_no_output_can_break_the_parser(raw: str, finish: FinishReason, wrong: str) -> None:
    parse(raw, finish, wrong)
    parsed = parse(output(raw), finish, wrong)
    if parsed.outcome is ParseOutcome.PARSED:
        assert parsed.prefix_char_end is not None
        assert (parsed.text or "").startswith(wrong[: parsed.prefix_char_end])


@given(st.text(min_size=1, max_size=40), st.text(max_size=40), st.data())
def test_constructed_tokens_keep_the_rollouts_own_tokens(wrong: str, rest: str, data: st.DataObject) -> None:
    kept = wrong[: data.draw(st.integers(0, len(wrong)))]
    text = f"{kept}\n{rest}"
    own = list(wrong.encode("utf-8"))
    ids, n_own = constructed_tokens(text, own, lambda t: list(t.encode("utf-8")), decode, 0)
    assert ids[:n_own] == own[:n_own]
    assert n_own >= len(kept.encode("utf-8"))
    assert decode(ids[:-1]) == text
    assert ids[-1] == 0
