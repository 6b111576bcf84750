"""Versioned prompt templates: one text file each. A template that rows refer to is never edited; a change is a new file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from tapo_core.errors import ConfigError
from tapo_core.ids import sha256_text

Task = Literal["micro_reflective", "full_reconstruction", "locate_error"]

#: The fields that each task's templates must have; {location}, a hint at the error, may be added to the constructions'.
_NEEDED: dict[Task, frozenset[str]] = {
    "micro_reflective": frozenset({"query", "wrong", "reference"}),
    "full_reconstruction": frozenset({"query", "wrong", "reference"}),
    "locate_error": frozenset({"query", "steps", "reference"}),
}
#: The built-in model's templates: it is taught each task with these very bytes.
SHORT: dict[Task, str] = {
    "micro_reflective": "micro_reflective_short_v2",
    "full_reconstruction": "full_reconstruction_short_v1",
    "locate_error": "locate_error_short_v1",
}
_FIELD = re.compile(r"\{(query|wrong|reference|location|steps)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """One prompt. Fields stand in braces: {query}, {wrong}, {reference}, {location}, {steps}."""

    version: str  #: the file's name without suffix
    text: str
    sha256: str

    @property
    def fields(self) -> frozenset[str]:
        """The fields it has."""
        return frozenset(_FIELD.findall(self.text))

    def render(self, **values: str) -> str:
        """Fill the fields in one pass: braces inside the texts are left alone. Values without a field are not used."""
        return _FIELD.sub(lambda match: values[match[1]], self.text)


def load_template(task: Task, version: str) -> Template:
    """Read a task's template by name.

    Raises:
        ConfigError: there is none of that name, or it is not for this task.
    """
    folder = resources.files(__name__)
    known = sorted(p.name.removesuffix(".txt") for p in folder.iterdir() if p.name.startswith(f"{task}_"))
    if version not in known:
        raise ConfigError(f"{version!r}: no prompt template of that name for {task}; there are {', '.join(known)}")
    # Verbatim, final line break included: the cold start learns the task from the same bytes.
    text = folder.joinpath(f"{version}.txt").read_text(encoding="utf-8")
    template = Template(version, text, sha256_text(text))
    missing = _NEEDED[task] - template.fields
    if missing:
        raise ConfigError(f"prompt template {version}: the field {{{min(missing)}}} is missing")
    return template


def numbered(steps: Sequence[str]) -> str:
    """Steps as {steps} shows them, counted from 1: "1: 7 + 12 = 19"."""
    return "\n".join(f"{number}: {step}" for number, step in enumerate(steps, start=1))
