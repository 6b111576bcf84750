"""Text that only looks like control tokens is encoded as text.

A tokenizer takes the characters ``<|im_end|>`` for the token that ends a turn, wherever they stand: also in a problem's
text, or in what a model wrote letter by letter. `PlainText` works with a copy of the tokenizer in which every control token
has a secret name. The copy splits and merges all text as the tokenizer itself does, and makes a control token of nothing but
the secret names, which are put in for the chat template's own control tokens.
"""

import json
import re
import secrets
from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from tapo_core.errors import UserError


class PlainText:
    """Encodes texts of one tokenizer. A text without the name of a control token is left to the tokenizer itself."""

    def __init__(self, tokenizer: Any, control: Collection[int]) -> None:
        """`control`: ids of the tokens that no text may become."""
        self._tokenizer = tokenizer
        self._ids = {str(tokenizer.convert_ids_to_tokens(token)): token for token in control}
        # Unforgeable: no text that was written before this process began has it.
        self._secret = secrets.token_hex(16)
        self._number = {name: number for number, name in enumerate(self._ids)}
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._marks = re.compile(rf"<{self._secret}:text:(\d+)>")

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added, and none of them a control token."""
        if self._names.search(text) is None:
            return self._plain(text)
        return self._disguised.encode(text, add_special_tokens=False).ids

    def encode_within(self, text: str, frame: Callable[[str], str]) -> list[int]:
        """Token ids of `frame(text)`. Control tokens come from what `frame` puts around the text alone.

        `frame` may trim the text, but has to leave the names of control tokens in it as they are.
        """
        if self._names.search(text) is None:
            return self._plain(frame(text))
        names = list(self._ids)
        marked = self._names.sub(lambda found: f"<{self._secret}:text:{self._number[found[0]]}>", text)
        framed = self._names.sub(lambda found: self._secret_name(found[0]), frame(marked))
        whole = self._marks.sub(lambda found: names[int(found[1])], framed)
        return self._disguised.encode(whole, add_special_tokens=False).ids

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _secret_name(self, name: str) -> str:
        return f"<{self._secret}:token:{self._number[name]}>"

    @cached_property
    def _disguised(self) -> Tokenizer:
        """The tokenizer with secret names for its control tokens, at the same ids."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UserError(
                f"{self._tokenizer.name_or_path}: a text has the name of a special token in it, which this kind of tokenizer "
                "cannot encode as text; drop the row, or use a checkpoint with a tokenizer.json"
            )
        renamed = {name: self._secret_name(name) for name in self._ids}
        state = json.loads(backend.to_str())
        state |= {"post_processor": None, "truncation": None, "padding": None}
        for token in state["added_tokens"]:
            token["content"] = renamed.get(token["content"], token["content"])
        model = state["model"]
        pieces = model.get("vocab", {})
        if isinstance(pieces, dict):
            model["vocab"] = {renamed.get(piece, piece): number for piece, number in pieces.items()}
        else:  # Unigram: [piece, score] in the order of the ids
            model["vocab"] = [[renamed.get(piece, piece), score] for piece, score in pieces]
        if "merges" in model:  # none may make, or be made of, a piece that is gone
            merges = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
            model["merges"] = [[a, b] for a, b in merges if not {a, b, a + b} & renamed.keys()]
        if model.get("unk_token") in renamed:
            model["unk_token"] = renamed[model["unk_token"]]
        disguised = Tokenizer.from_str(json.dumps(state))
        moved = [name for name, secret in renamed.items() if disguised.token_to_id(secret) != self._ids[name]]
        if moved:
            raise UserError(
                f"{self._tokenizer.name_or_path}: cannot encode {moved[0]!r} as text; drop the rows that have it"
            )
        return disguised
