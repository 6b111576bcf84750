"""Texts to tokens and back, through a checkpoint's own tokenizer and chat template."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tapo_core.engines.hf import load_tokenizer


class Chat:
    """The one place where text meets tokens. Works with any Hugging Face tokenizer that has a chat template."""

    def __init__(self, checkpoint: Path, template_kwargs: Mapping[str, bool | int | float | str]) -> None:
        """Load the tokenizer of a checkpoint.

        Raises:
            UserError: there is none, or it has no chat template.
        """
        self._tokenizer = load_tokenizer(checkpoint)
        self._kwargs = dict(template_kwargs)

    @property
    def eos_token_id(self) -> int:
        """The token that ends a turn."""
        return int(self._tokenizer.eos_token_id)

    def prompt(self, user_text: str) -> list[int]:
        """Token ids of a conversation with one user message, up to where the assistant begins."""
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": user_text}], tokenize=False, add_generation_prompt=True, **self._kwargs
        )
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special tokens left out, nothing tidied."""
        return str(
            self._tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )
