"""Text for people: one line, so wide and no wider; Markdown tables and blocks."""

import re
from collections.abc import Iterable, Sequence


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
