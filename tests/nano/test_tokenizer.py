"""The nano tokenizer's three promises: lossless, one token a number, line prefixes are token prefixes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tapo_core.nano.tokenizer import END, END_ID, PAD, PAD_ID, START, START_ID, VOCAB_SIZE, build_tokenizer

TOKENIZER = build_tokenizer()

#: Arbitrary text, and text made of the pieces that merges and cuts are about.
TEXT = st.text(max_size=80) | st.lists(
    st.sampled_from(["\n", " ", "12", "3", " + ", " = ", "Answer: \\boxed{", "}", "Wait, ", "\n\n", "\r", "é", "٣", START, "x"]),
    max_size=20,
).map("".join)  # fmt: skip


def _ids(text: str) -> list[int]:
    ids: list[int] = TOKENIZER(text, add_special_tokens=False).input_ids
    return ids


@given(TEXT)
def test_round_trip(text: str) -> None:
    assert TOKENIZER.decode(_ids(text)) == text


@given(TEXT)
def test_every_prefix_of_whole_lines_is_a_prefix_of_the_tokens(text: str) -> None:
    ids = _ids(text)
    for end, character in enumerate(text):
        if character == "\n":
            # Before the newline (the kept prefix of a construction ends there) and after it.
            for prefix in (_ids(text[:end]), _ids(text[: end + 1])):
                assert ids[: len(prefix)] == prefix


@pytest.mark.parametrize("before", ["", " ", "x = ", "\n", "\\boxed{", "(", "é"])
@pytest.mark.parametrize("after", ["", " + 3", "}", "\n", "."])
def test_integers_are_one_token_wherever_they_stand(before: str, after: str) -> None:
    for number in range(100):
        (token,) = _ids(str(number))
        assert _ids(f"{before}{number}{after}") == [*_ids(before), token, *_ids(after)]


def test_common_pieces_are_one_token() -> None:
    for piece in (" + ", " - ", " * ", " = ", "Answer: \\boxed{", "Try x = "):
        assert len(_ids(piece)) == 1


def test_vocabulary() -> None:
    assert len(TOKENIZER) == VOCAB_SIZE
    assert sorted(TOKENIZER.get_vocab().values()) == list(range(VOCAB_SIZE))
    assert (TOKENIZER.eos_token, TOKENIZER.pad_token) == (END, PAD)
    assert [_ids(token) for token in (PAD, START, END)] == [[PAD_ID], [START_ID], [END_ID]]


def test_training_is_deterministic() -> None:
    assert build_tokenizer().backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()


def test_chat_template() -> None:
    messages = [{"role": "user", "content": "1 + 1"}]
    prompt = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\n1 + 1<|im_end|>\n<|im_start|>assistant\n"
    messages.append({"role": "assistant", "content": "2"})
    assert TOKENIZER.apply_chat_template(messages, tokenize=False) == f"{prompt}2<|im_end|>\n"


def test_saved_tokenizer_loads_as_the_same(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    text = "Try x = 12.\n3 * 12 = 36\nAnswer: \\boxed{12}" + END
    assert loaded(text, add_special_tokens=False).input_ids == _ids(text)
    assert loaded.decode(_ids(text), skip_special_tokens=True) == text.removesuffix(END)
    assert loaded.chat_template == TOKENIZER.chat_template
    assert (loaded.eos_token, loaded.pad_token) == (END, PAD)
