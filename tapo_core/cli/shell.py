"""``tapo shell``: SQL on a run, statement by statement, each on what is committed by then."""

import contextlib
import readline
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

from tapo_core.assets import cache_root
from tapo_core.cli.formats import TableFormat
from tapo_core.cli.show import print_table
from tapo_core.errors import TapoError
from tapo_core.store import query
from tapo_core.text import one_line

_HELP = ".tables   names of tables and views\n.schema x columns of x\n.quit     leave (or Ctrl-D)\nSQL ends with a semicolon"
_TABLES = """
SELECT view_name AS name FROM duckdb_views() WHERE NOT internal AND NOT temporary ORDER BY name
"""


def run_shell(run_folder: Path) -> None:
    """Read statements from standard input until it ends. What is wrong with one is said, and the next one comes.

    Raises:
        UserError: no run in the folder.
    """
    query(run_folder, "SELECT 1")
    print(f"{run_folder}: read-only SQL; .help says what else")
    with _history(cache_root() / "shell_history"):
        for statement in _statements():
            if statement in (".quit", ".exit"):
                return
            try:
                _answer(run_folder, statement)
            except TapoError as error:
                print(one_line(error), file=sys.stderr)
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)


def _answer(run_folder: Path, statement: str) -> None:
    if statement == ".help":
        print(_HELP)
    elif statement == ".tables":
        print_table(query(run_folder, _TABLES), TableFormat.TABLE)
    elif statement.startswith(".schema "):
        name = statement.removeprefix(".schema ").strip().replace('"', '""')
        print_table(query(run_folder, f'SELECT column_name, column_type FROM (DESCRIBE "{name}")'), TableFormat.TABLE)
    elif statement.startswith("."):
        print(_HELP, file=sys.stderr)
    else:
        print_table(query(run_folder, statement), TableFormat.TABLE)


def _statements() -> Iterator[str]:
    """Lines that begin with a dot, and SQL up to its semicolon (or the end of the input). Ctrl-C drops what was begun."""
    interactive = sys.stdin.isatty()
    text = ""
    while True:
        try:
            line = input(("  ...> " if text else "tapo> ") if interactive else "")
        except KeyboardInterrupt:
            text = ""
            print()
            continue
        except EOFError:
            break
        if not text and line.lstrip().startswith("."):
            yield line.strip()
            continue
        text = f"{text}{line}\n"
        if not text.strip():
            text = ""
        elif sqlite3.complete_statement(text):  # a semicolon that is in no string and no comment
            yield text.strip()
            text = ""
    if text.strip() and not interactive:
        yield text.strip()


@contextlib.contextmanager
def _history(file: Path) -> Iterator[None]:
    """Remember what was typed from one session to the next, where that can be written."""
    if not sys.stdin.isatty():
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        readline.set_history_length(1000)
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)
