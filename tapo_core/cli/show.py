"""What the terminal shows: tables, and a constructed trajectory in colour. Model text is printed as text, never as markup."""

from pathlib import Path

import pandas
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tapo_core.cli.formats import TableFormat
from tapo_core.records import Correction, Query, Rollout
from tapo_core.store import load

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
    table = Table(show_edge=False, pad_edge=False)
    for name in frame.columns:
        numeric = pandas.api.types.is_numeric_dtype(frame[name])
        table.add_column(Text(str(name)), justify="right" if numeric else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(printable(_cell(value))) for value in row))
    Console().print(table)


def _cell(value: object) -> str:
    if value is None or value is pandas.NA or (isinstance(value, float) and value != value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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
