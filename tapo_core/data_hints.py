"""Which columns may be meant, and how rows become what is expected: the other half of an error's message.

Every hint is true of this version: what it names works, and what does not work yet is said not to.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tapo_core.config import ColumnsConfig
from tapo_core.text import shortened

#: Where docs/data.md has a script that writes a data set out with its problems and answers as text.
_PAGE = "docs/data.md, Rows in other shapes, has a script for it"

#: What other data sets call the columns, the likeliest first.
_USUAL = {
    "problem": ("question", "prompt", "query", "problem_statement", "instruction", "input", "text"),
    "answer": (
        *("final_answer", "gold_answer", "expected_answer", "correct_answer", "ground_truth", "gold", "target"),
        *("solution", "label", "response", "output", "completion"),
    ),
}


def columns_setting(location: str, split: str, columns: ColumnsConfig, field: str, name: str) -> str:
    """How a configuration says that the column `field` (problem, answer, ...) of a split's data set is called `name`."""
    if split == "train":
        return f"data.columns.{field} = {_toml(name)}"
    changed = columns.model_copy(update={field: name}).model_dump(exclude_defaults=True)
    table = "{" + ", ".join(f"{key} = {_toml(value)}" for key, value in changed.items()) + "}"
    if split == "held_out":
        return f"data.held_out_columns = {table}"
    return f"evaluation.datasets.{split} = {{path = {_toml(location)}, columns = {table}}}"


def missing_column(column: str, field: str, row: Mapping[str, Any], typed: bool, setting: str) -> str:
    """That a column is missing, which ones there are, and which one may be meant.

    `field`: what it holds (problem, answer, family or level). `row`: a row of the data set. `typed`: whether its columns have
    types. `setting`: what `columns_setting` returns for the name "NAME".
    """
    told = f"the column {column!r} is missing (there are {_listed(row)}); "
    outer = column.partition(".")[0]
    if outer in row and outer != column:
        return (
            f"{told}{_name(outer)} is {_shape(row[outer])}, and a column inside a column cannot be named: write it into a "
            f"column of its own ({_PAGE})"
        )
    close = _closest(column, field, row, typed)
    if close is not None:
        return f"{told}name it in columns: {setting.replace(_toml('NAME'), _toml(close))}"
    for name, value in row.items():
        if not typed and isinstance(value, list) and value and isinstance(value[0], dict) and not _roles(value):
            return (
                f"{told}if the rows are in {_name(name)}, write them one a line: jq -c '.[{_toml(name)}][]' OLD > NEW"
            )
    inner = [f"{_name(name)} is {_shape(value)}" for name, value in row.items() if isinstance(value, list | dict)]
    if inner:
        return (
            f"{told}{shortened('; '.join(inner), 300)}: write the {field} as text into a column of its own ({_PAGE}) and "
            f"name it in columns: {setting}"
        )
    return f"{told}name it in columns: {setting}"


def not_text(column: str, value: object, field: str, row: Mapping[str, Any], typed: bool, setting: str) -> str:
    """That a column's value is not a text, and how to make it one, or which other column may be meant (see `missing_column`)."""
    told = f"{_name(column)} is {_shape(value)}, not a string; "
    if isinstance(value, bool | int | float):
        return told + ("make it a string column" if typed else f"put it in quotes ({_PAGE})")
    if not isinstance(value, list | dict):
        return told + "make it a string column"
    if _roles(value):
        told += "TAPO puts the chat template around the problem's text itself: "
    close = _closest(column, field, {name: row[name] for name in row if name != column}, typed)
    told += f"write the {field} as text into a column of its own ({_PAGE})"
    return told if close is None else f"{told}, or name another: {setting.replace(_toml('NAME'), _toml(close))}"


def _toml(value: object) -> str:
    return json.dumps(value)


def _name(name: str) -> str:
    """A column's name, with its invisible characters made visible."""
    return name if name.isprintable() and name else repr(name)


def _listed(names: Iterable[str]) -> str:
    return shortened(", ".join(sorted(map(_name, names))) or "none", 300)


def _plain(name: str) -> str:
    """A column's name without case, underscores and invisible characters."""
    return re.sub(r"[\W_]", "", name).casefold()


def _closest(column: str, field: str, row: Mapping[str, Any], typed: bool) -> str | None:
    """The column that may be meant: the same name but for case and signs, a similar one, or a usual one. Its values fit."""
    fits = (str, int) if typed or field == "level" else (str,)
    there = {_plain(name): name for name, value in row.items() if type(value) in fits}
    similar = difflib.get_close_matches(_plain(column), there, n=1, cutoff=0.75)
    wanted = [_plain(column), field, *similar, *map(_plain, _USUAL.get(field, ()))]
    return next((there[name] for name in wanted if name in there), None)


def _roles(value: object) -> Sequence[str]:
    """Who speaks in a list of chat messages; empty if it is none."""
    if not isinstance(value, list) or not value:
        return ()
    roles = []
    for message in value:
        keys = ("role", "content") if isinstance(message, dict) and "role" in message else ("from", "value")
        if not isinstance(message, dict) or not all(key in message for key in keys):
            return ()
        roles.append(str(message[keys[0]]))
    return roles


def _shape(value: object) -> str:
    """What a value is: "int", "a list of chat messages (system, user)", "an object with ground_truth, style inside"."""
    roles = _roles(value)
    if roles:
        return f"a list of chat messages ({shortened(', '.join(roles), 60)})"
    if isinstance(value, list):
        kinds = sorted({type(element).__name__ for element in value})
        return f"a list of {len(value)}" + (f" ({', '.join(kinds)})" if kinds else "")
    if isinstance(value, dict):
        return f"an object with {_listed(value)} inside"
    return type(value).__name__
