"""A checkpoint's chat template, rendered by a clock that stands still.

Some templates put today's date into every prompt (Llama 3.1 and 3.2 do). A run stores the date on which it began and renders with
that one for as long as it lasts, so that one query has one prompt.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tapo_core.errors import UserError
from tapo_core.text import one_line

Kwargs = Mapping[str, bool | int | float | str]
Messages = Sequence[Mapping[str, str]]


class Template:
    """The chat template of one tokenizer."""

    def __init__(self, checkpoint: Path, tokenizer: Any, kwargs: Kwargs, clock: datetime) -> None:
        """`kwargs`: model.chat_template_kwargs. `clock`: what ``strftime_now`` reads; local time without an offset."""
        self._checkpoint = checkpoint
        self._tokenizer = tokenizer
        self._kwargs = dict(kwargs)
        self._clock = clock
        #: Whether the template has asked for the time so far.
        self.reads_clock = False

    def render(self, messages: Messages, begin_answer: bool) -> str:
        """The text of a conversation; with `begin_answer` up to where the assistant's next turn begins.

        Raises:
            UserError: the template does not take such a conversation.
        """
        try:
            # A variable of the context goes before the environment's global of that name.
            return str(
                self._tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    tokenize=False,
                    add_generation_prompt=begin_answer,
                    **{"strftime_now": self._strftime, **self._kwargs},
                )
            )
        except Exception as error:  # a template is a program of somebody else's: it can raise anything
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(
                f"{self._checkpoint}: the chat template refuses a conversation of these messages: {roles} ({one_line(error)}). "
                "TAPO sends one user message and no system message: pass what the template needs in model.chat_template_kwargs, "
                "or change chat_template.jinja in a copy of the checkpoint and set model.path to the copy"
            ) from error

    def _strftime(self, pattern: str) -> str:
        self.reads_clock = True
        return self._clock.strftime(pattern)
