"""What the terminal shows: tables, and a constructed trajectory in colour. Model text is printed as text, never as markup."""

from collections.abc import Sequence
from pathlib import Path

import pandas
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tapo_core.cli.formats import TableFormat
from tapo_core.records import Correction, Query, Rollout
from tapo_core.store import load
from tapo_core.text import cell_text, markdown_table

#: Characters below which a folded column cannot be read any more.
_READABLE = 12
PREFIX_STYLE, DIAGNOSIS_STYLE, CORRECTION_STYLE = "red", "bold yellow", "green"


def printable(text: str) -> str:
    """A text without control characters, which could command the terminal; line breaks stay."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_table(frame: pandas.DataFrame, output: TableFormat) -> None:
    """Print a query's result."""
    if output is TableFormat.CSV:
        print(frame.to_csv(index=False), end="")
        return
    if output is TableFormat.JSON:
        print(frame.to_json(orient="records", lines=True, date_format="iso", default_handler=str), end="")
        return
    if output is TableFormat.MARKDOWN:
        print(printable(markdown_table([str(name) for name in frame.columns], frame.itertuples(index=False))))
        return
    rows = [[printable(cell_text(value)) for value in row] for row in frame.itertuples(index=False)]
    names = [str(name) for name in frame.columns]
    console = Console()
    columns = zip(names, *rows, strict=True)
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    if not console.is_terminal:
        console = Console(width=sum(widths) + 3 * len(widths) + 1)
    if sum(min(width, _READABLE) + 3 for width in widths) > console.width:
        _print_records(console, names, rows)
        return
    table = Table(show_edge=False, pad_edge=False)
    for index, name in enumerate(names):
        numeric = pandas.api.types.is_numeric_dtype(frame.dtypes.iloc[index])
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _print_records(console: Console, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table that is too wide to be read: one block for each row, one line for each column."""
    for number, row in enumerate(rows, start=1):
        console.rule(f"row {number}", align="left")
        table = Table.grid(padding=(0, 2))
        for name, cell in zip(names, row, strict=True):
            table.add_row(Text(name, style="bold"), Text(cell))
        console.print(table)


def print_trajectory(console: Console, run_folder: Path, correction: Correction) -> None:
    """A constructed trajectory: wrong prefix, diagnosis, correction, and the reference rollout that guided it."""
    query = load(run_folder, Query, query_id=correction.query_id)[0]
    reference = load(run_folder, Rollout, rollout_id=correction.reference_rollout_id)[0]
    wrong = load(run_folder, Rollout, rollout_id=correction.wrong_rollout_id)[0]
    console.print(Text("Query      ", style="bold").append(printable(query.text), style="default"))
    text = Text()
    text.append(printable(wrong.text[: correction.prefix_char_end]) + "\n", PREFIX_STYLE)
    text.append(printable(correction.diagnosis or "") + "\n", DIAGNOSIS_STYLE)
    text.append(printable(correction.correction or ""), CORRECTION_STYLE)
    legend = Text("Constructed ", style="bold")
    for word, style in (
        ("wrong prefix", PREFIX_STYLE),
        ("diagnosis", DIAGNOSIS_STYLE),
        ("correction", CORRECTION_STYLE),
    ):
        legend.append(f"  {word}", style)
    console.print(legend)
    console.print(_indented(text))
    console.print(Text("Reference  ", style="bold").append("the correct sibling it was shown", style="dim"))
    console.print(_indented(Text(printable(reference.text), style="dim")))


def _indented(text: Text) -> Text:
    lines = [Text("  ").append_text(line) for line in text.split("\n")]
    return Text("\n").join(lines)
