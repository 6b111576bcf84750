"""The tokens of an expression in the notation of `notation.plain`."""

import re

from tapo_core.verification.expressions import CannotReadError

_TOKEN = re.compile(
    r"\s*(?:"
    r"(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+(?![\d.]))?)"
    r"|(?P<command>\\[A-Za-z]+)"
    r'|"(?P<text>[^"]*)"'
    r"|(?P<letters>[A-Za-z]+)"
    r"|(?P<sign>\\[{}|]|\.\.\.|[-+*/^_(){}\[\]|!'%,°])"
    r")"
)


class Tokens:
    """The tokens of one text. `kind` and `token` are the one that comes next; `kind` is None at the end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.kind: str | None = None
        self.token = ""
        self.is_spaced = False
        self.advance()

    def advance(self) -> None:
        """Go to the next token."""
        match = _TOKEN.match(self.text, self.at)
        if match is None:
            if not self.text[self.at :].strip():
                self.kind, self.token, self.at = None, "", len(self.text)
                return
            raise CannotReadError(f"{self.text[self.at :].strip()[:1]!r} is not expected")
        self.kind = match.lastgroup
        self.token = match[self.kind] if self.kind else ""
        self.is_spaced = match.start(self.kind or 0) > self.at
        self.at = match.end()

    def take(self, sign: str) -> bool:
        """Go past a sign or command, if it is the one that comes next."""
        if self.kind in ("sign", "command") and self.token == sign:
            self.advance()
            return True
        return False

    def expect(self, sign: str) -> None:
        """Go past a sign.

        Raises:
            CannotReadError: another token comes next.
        """
        if not self.take(sign):
            raise CannotReadError(f"{sign!r} is missing")
