"""Texts to tokens and back, through a checkpoint's own tokenizer and chat template."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path

from tapo_core.engines.hf import load_tokenizer
from tapo_core.engines.plain_text import PlainText
from tapo_core.engines.stops import Stops, control_tokens, find_stops
from tapo_core.engines.template import Template


class Chat:
    """The one place where text meets tokens. Works with any Hugging Face tokenizer that has a chat template."""

    def __init__(
        self,
        checkpoint: Path,
        template_kwargs: Mapping[str, bool | int | float | str],
        clock: datetime | None = None,
    ) -> None:
        """Load the tokenizer of a checkpoint. `clock`: the time that the chat template sees; None: that of this call.

        Raises:
            UserError: there is none, or it has no chat template.
        """
        self._checkpoint = checkpoint
        self._tokenizer = load_tokenizer(checkpoint)
        #: Local time without an offset, the same for every prompt.
        self.clock = clock or datetime.now().replace(microsecond=0)
        self._template = Template(checkpoint, self._tokenizer, template_kwargs, self.clock)

    @cached_property
    def stops(self) -> Stops:
        """The tokens that end a turn, by the checkpoint's files and its chat template.

        Raises:
            UserError: none does, or the chat template refuses a conversation of one user message.
        """
        return find_stops(self._checkpoint, self._tokenizer, self._template)

    @cached_property
    def control(self) -> frozenset[int]:
        """Ids of the tokens that no text becomes (see `engines.stops.control_tokens`)."""
        return control_tokens(self._tokenizer, self._template, self.stops.tokens)

    @cached_property
    def reads_clock(self) -> bool:
        """Whether the chat template puts the time, or the date, into a prompt."""
        self.prompt("?")
        return self._template.reads_clock

    @cached_property
    def _text(self) -> PlainText:
        return PlainText(self._tokenizer, self.control)

    def prompt(self, user_text: str) -> list[int]:
        """Token ids of a conversation with one user message, up to where the assistant begins.

        The names of control tokens in the message are text.

        Raises:
            UserError: the chat template refuses it.
        """

        def conversation(text: str) -> str:
            return self._template.render([{"role": "user", "content": text}], begin_answer=True)

        return self._text.encode_within(user_text, conversation)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added. The names of control tokens in it are text."""
        return self._text.encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, nothing tidied. Special tokens, and control tokens that end a turn, are left out."""
        own = [token for token in token_ids if token not in self._silent]
        return str(self._tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def transcript(self, token_ids: Sequence[int]) -> str:
        """All text of tokens, control tokens included."""
        return str(
            self._tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    @cached_property
    def _silent(self) -> frozenset[int]:
        """Tokens that end a turn, which a tokenizer need not mark as special."""
        return self.control.intersection(self.stops.tokens)
