"""Run every query of docs/queries.md on a run and write its output below it."""

import re
import sys
from pathlib import Path

import pandas

from tapo_core.store import query
from tapo_core.text import shortened

PAGE = Path(__file__).resolve().parents[1] / "docs" / "queries.md"
_BLOCK = re.compile(r"```sql\n(.*?)\n```\n\n```text\n.*?```", re.DOTALL)
#: Characters of a cell that the page shows.
_WIDTH = 60


def _shown(value: object) -> str:
    if value is None or value != value:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else " / ".join(str(value).split("\n"))
    return shortened(text, _WIDTH)


def _table(frame: pandas.DataFrame) -> str:
    """Aligned columns; a single row of many columns as one line a column."""
    rows = [[_shown(value) for value in row] for row in frame.itertuples(index=False)]
    names = [str(name) for name in frame.columns]
    if len(rows) == 1 and len(names) > 7:
        width = max(map(len, names))
        return "\n".join(f"{name:{width}}  {cell}" for name, cell in zip(names, rows[0], strict=True))
    widths = [max(len(cell) for cell in column) for column in zip(names, *rows, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in [names, *rows])
    return "\n".join(line.rstrip() for line in lines)


def main() -> None:
    """Rewrite the page."""
    run = Path(sys.argv[1])
    page = PAGE.read_text(encoding="utf-8")
    page = _BLOCK.sub(lambda m: f"```sql\n{m[1]}\n```\n\n```text\n{_table(query(run, m[1]))}\n```", page)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
