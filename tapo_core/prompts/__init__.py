"""Versioned prompt templates: one text file each. A template that rows refer to is never edited; a change is a new file."""

import re
from dataclasses import dataclass
from importlib import resources

from tapo_core.errors import ConfigError
from tapo_core.ids import sha256_text

_FIELD = re.compile(r"\{(query|wrong|reference|location)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """One construction prompt. Fields: {query}, {wrong}, {reference}, and optionally {location}."""

    version: str  #: the file's name without suffix
    text: str
    sha256: str

    def render(self, query: str, wrong: str, reference: str, location: str = "") -> str:
        """Fill the fields in one pass: braces inside the texts are left alone."""
        values = {"query": query, "wrong": wrong, "reference": reference, "location": location}
        return _FIELD.sub(lambda match: values[match[1]], self.text)


def load_template(version: str) -> Template:
    """Read a template by name.

    Raises:
        ConfigError: there is none of that name, or it lacks a field.
    """
    folder = resources.files(__name__)
    known = sorted(p.name.removesuffix(".txt") for p in folder.iterdir() if p.name.endswith(".txt"))
    if version not in known:
        raise ConfigError(f"correction.template = {version!r}: no such prompt template; there are {', '.join(known)}")
    # Verbatim, final line break included: the cold start learns the construction task from the same bytes.
    text = folder.joinpath(f"{version}.txt").read_text(encoding="utf-8")
    missing = {"query", "wrong", "reference"} - set(_FIELD.findall(text))
    if missing:
        raise ConfigError(f"prompt template {version}: the field {{{min(missing)}}} is missing")
    return Template(version, text, sha256_text(text))
