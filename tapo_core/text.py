"""Text for people: one line, so wide and no wider; Markdown tables and blocks. And text from people: what is in their files."""

import re
from collections.abc import Iterable, Sequence


def wide_encoding(content: bytes) -> str | None:
    """UTF-16 or UTF-32, as `iconv` names it, if a file of ASCII characters and others seems to be in it; else None."""
    head = content[:4]
    if head in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "UTF-32"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16"
    zeros = [byte == 0 for byte in head]
    if zeros == [False, True, False, True]:
        return "UTF-16LE"
    return "UTF-16BE" if zeros == [True, False, True, False] else None


def decoded(content: bytes) -> str:
    """The text of a file that a person wrote in UTF-8: without a byte-order mark, and every line end is a line feed.

    Raises:
        ValueError: it is not UTF-8. The message says what to do.
    """
    encoding = wide_encoding(content)
    if encoding is not None:
        raise ValueError(f"{encoding} text, not UTF-8; convert it: iconv -f {encoding} -t UTF-8 OLD > NEW")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def one_line(text: object) -> str:
    """A text, or an error's message, on one line."""
    return " ".join(str(text).split())


def shortened(text: str, width: int) -> str:
    """At most `width` characters of a text; an ellipsis says that there was more."""
    return text if len(text) <= width else text[: width - 1] + "\N{HORIZONTAL ELLIPSIS}"


def cell_text(value: object) -> str:
    """A value of a query's result as people read it: nothing for what is missing, four digits for a fraction."""
    if value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown_table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A pipe table. Numbers are shown with four digits; a cell's own pipes and line breaks cannot break the table.

    >>> print(markdown_table(["metric", "value"], [["pass@1", 0.35]]))
    | metric | value |
    |---|---|
    | pass@1 | 0.35 |
    """
    lines = [names, ["---"] * len(names), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(
        f"|{'|'.join(line)}|" if number == 1 else f"| {' | '.join(line)} |" for number, line in enumerate(lines)
    )


def fenced(text: str) -> str:
    """A Markdown code block in which any text, also one that has fences of its own, shows as it is.

    >>> print(fenced("a ``` b"))
    ````
    a ``` b
    ````
    """
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _cell(value: object) -> str:
    if value is None or value != value:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
