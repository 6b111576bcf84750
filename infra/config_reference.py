"""Write docs/configuration.md from the configuration's own fields, so that the page cannot drift (a test compares them)."""

from pathlib import Path

from pydantic import BaseModel

from tapo_core.config import PURPOSES, TapoConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
HEADER = """\
# Configuration

A run is one TOML file; `--set section.key=value` overrides a key. Unknown keys and impossible combinations are refused. The
resolved configuration and its digest are stored with the run (tables `config` and `run`). *paper* marks the paper's values;
everything else is our choice. This page is made by `make docs`.

What a key does to a run that exists ([docs/operate.md](operate.md) says how to change it):

- **shapes**: it shapes the trajectories, and is part of the digest. `tapo resume RUN --set section.key=value` makes a revision of
  the configuration, which applies from the next iteration on.
- **fixed**: it shapes the trajectories, and the run keeps it. `tapo fork` begins another run from a policy of this one.
- **operates**: it changes no stored trajectory, except in the last digits of sums. Each command may give another value.
- **names**: it says what the run is called and where it is.
"""


def _rows(model: type[BaseModel], prefix: str = "") -> list[str]:
    rows = ["| key | default | in a run | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)}`"
        meaning = " ".join((field.description or "").split())
        rows.append(f"| `{name}` | {default} | {PURPOSES[prefix + name].kind} | {meaning} |")
    return rows


def _sections(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The sections of a model, each followed by those in it."""
    parts = []
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            path = f"{prefix}{name}"
            parts += [f"## [{path}]\n", " ".join((section.__doc__ or "").split()), ""]
            parts += [
                *([" ".join(field.description.split()), ""] if field.description else []),
                *_rows(section, f"{path}."),
                "",
            ]
            parts += _sections(section, f"{path}.")
    return parts


def page() -> str:
    """The whole page."""
    parts = [HEADER, "## Top level\n", *_rows(TapoConfig), "", *_sections(TapoConfig)]
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
