"""The rows of a data set, and what one row holds."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapo_core.config import ColumnsConfig
from tapo_core.data_formats import HEAD_BYTES, foreign_kind, json_hint
from tapo_core.data_hints import columns_setting, missing_column, not_text
from tapo_core.data_tables import DataTable, check_regular, open_table
from tapo_core.errors import DataError

_BOM = b"\xef\xbb\xbf"

#: What JSON's \f, \b, \t, \r and \n leave of LaTeX whose backslashes were not written twice: \frac is then a form feed and "rac".
_LOST_BACKSLASH = re.compile(
    r"\x0c(?:rac|orall)|\x08(?:eta|inom|ar\b|egin|oxed|mod)|\t(?:heta|imes|ext[{b]|frac|riangle)|\r(?:ight|ho\b|angle)|\n(?:abla)"
)
_LETTERS = {"\x0c": "f", "\x08": "b", "\t": "t", "\r": "r", "\n": "n"}


@dataclass(frozen=True, slots=True)
class Content:
    """What a row is read for."""

    problem: str
    answer: str
    family: str | None
    level: int | None


class _Repeating(dict[str, Any]):
    """A JSON object in which names are repeated: the last value counts for Python, another one for other readers."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class DataRows:
    """A data set, the split that it is of, and what its columns are called."""

    location: str
    split: str
    columns: ColumnsConfig

    @property
    def _key(self) -> str:
        """The configuration's key that names the data set."""
        return f"data.{self.split}" if self.split in ("train", "held_out") else f"evaluation.datasets.{self.split}"

    def read(self) -> Iterator[tuple[str, bytes | dict[str, Any]]]:
        """The rows with their places (location, colon, number from 1): lines of JSON, or rows of typed columns.

        Raises:
            DataError: the data set cannot be read, or lacks a column.
        """
        table = open_table(self.location, self._key)
        rows = self._lines() if table is None else enumerate(self._typed_rows(table), start=1)
        return ((f"{self.location}:{number}", row) for number, row in rows)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        path = Path(self.location)
        check_regular(path, self._key)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot read the data file ({error.strerror}); check {self._key}") from error
        kind = foreign_kind(content[:HEAD_BYTES])
        if kind is not None:
            raise DataError(f"{path}: {kind}; check {self._key}")
        # bytes.splitlines splits at line feeds and carriage returns only, str.splitlines also at U+2028, U+0085 and others,
        # which may stand in a text. A byte-order mark stands before a line where files were concatenated.
        lines = (line.removeprefix(_BOM) for line in content.splitlines())
        return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())

    def _typed_rows(self, table: DataTable) -> Iterable[dict[str, Any]]:
        named = self._named()
        for field, name in named.items():
            if name not in table.columns:
                raise DataError(f"{self.location}: {self._missing(field, name, table.first_row(), typed=True)}")
            if table.columns.count(name) > 1:
                raise DataError(f"{self.location}: {table.columns.count(name)} columns are called {name!r}; rename one")
        unnamed = {"family", "level"}.difference(named).intersection(table.columns)
        return table.rows(list(dict.fromkeys([*named.values(), *sorted(unnamed)])))

    def _named(self) -> dict[str, str]:
        """The columns that have to be there."""
        named = {field: getattr(self.columns, field) for field in ("problem", "answer", "family", "level")}
        return {field: name for field, name in named.items() if name is not None}

    def content(self, raw: bytes | dict[str, Any], place: str) -> Content:
        """What a row of `read` holds.

        Raises:
            DataError: the row is malformed, or lacks a problem or an answer.
        """
        row = _json_row(raw, place) if isinstance(raw, bytes) else raw
        typed = row is raw
        for field, name in self._named().items():
            if name not in row:
                raise DataError(f"{place}: {self._missing(field, name, row, typed)}")
            if isinstance(row, _Repeating) and name in row.names:
                raise DataError(f"{place}: {name!r} occurs twice in the row; take one of them away")
        problem, answer = (self._text(row, field, place, typed) for field in ("problem", "answer"))
        if not problem:
            raise DataError(f"{place}: the problem is empty")
        if self.columns.answer_pattern is not None:
            match = re.search(self.columns.answer_pattern, answer)
            if match is None:
                raise DataError(f"{place}: answer_pattern finds nothing in the answer, which ends in {answer[-40:]!r}")
            answer = (match[1] or "").strip()
        if not answer.strip("$. "):
            raise DataError(f"{place}: the answer is empty; every row needs a gold answer")
        family = row.get(self.columns.family or "family")
        if family is not None:
            family = str(family)
            _check_storable(family, "family", place)
        return Content(problem, answer, family, _level(row.get(self.columns.level or "level")))

    def _text(self, row: dict[str, Any], field: str, place: str, typed: bool) -> str:
        """The text of the problem or the answer without white space around it.

        A whole number counts as text where the column's type says that all are whole; a JSON line says so of one row only.
        """
        column: str = getattr(self.columns, field)
        value = row[column]
        if typed and type(value) is int:
            value = str(value)
        if value is None:
            raise DataError(f"{place}: the {field} is empty")
        if not isinstance(value, str):
            raise DataError(f"{place}: {not_text(column, value, field, row, typed, self._setting(field))}")
        _check_storable(value, field, place)
        # A gold answer that says something else gives wrong rewards. Published data sets have such problems, which stay readable.
        lost = _LOST_BACKSLASH.search(value) if field == "answer" else None
        if lost is not None:
            command = "\\" + _LETTERS[lost[0][0]] + lost[0][1:]
            raise DataError(
                f"{place}: the {field} has the character {lost[0][0]!r} where LaTeX has {command}; JSON writes a backslash "
                f"twice: \\{command}"
            )
        return value.strip()

    def _missing(self, field: str, name: str, row: dict[str, Any], typed: bool) -> str:
        return missing_column(name, field, row, typed, self._setting(field))

    def _setting(self, field: str) -> str:
        return columns_setting(self.location, self.split, self.columns, field, "NAME")


def _json_row(line: bytes, place: str) -> dict[str, Any]:
    try:
        text = line.decode("utf-8")
        row = json.loads(text, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: not valid JSON ({error.msg} at column {error.colno}){json_hint(text, error)}"
        ) from error
    except ValueError as error:
        raise DataError(f"{place}: JSON that cannot be read: a number has too many digits; put it in quotes") from error
    except RecursionError as error:
        raise DataError(f"{place}: JSON that cannot be read: too many brackets inside one another") from error
    if not isinstance(row, dict):
        raise DataError(f"{place}: a {type(row).__name__}, not a JSON object with problem and answer")
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    names = [name for name, _ in pairs]
    repeating = _Repeating(row)
    repeating.names = frozenset(name for name in row if names.count(name) > 1)
    return repeating


def _check_storable(text: str, field: str, place: str) -> None:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"{place}: the {field} has half a character in it (a lone surrogate), which cannot be stored")


def _level(value: object) -> int | None:
    """A whole number of at most nine digits, or the one at the end of a text: "Level 5" is 5, "Level ?" is none."""
    if isinstance(value, str):
        found = re.search(r"(?<!\d)\d{1,9}$", value.strip())
        return int(found[0]) if found else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 10**9:
        return None
    return int(value) if float(value).is_integer() else None
