"""The study file: frozen and strict, like the configuration of a run."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tapo_core.config_file import parse_model, read_toml
from tapo_core.config_section import PositiveInt, Section

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]{0,39}$")]
"""Of a family, policy or variant. Without a hyphen, which separates them in a run's name."""
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)]


def _without_run(tree: dict[str, Any]) -> dict[str, Any]:
    if "run" in tree:
        raise ValueError("run.name, run.seed and run.iterations are made by the study (seeds, steps, steps_factor)")
    return tree


Settings = Annotated[dict[str, Any], AfterValidator(_without_run)]

METRICS = ("pass@1", "pass@4", "dsr", "err")
Cell = tuple[str, str]  #: names of a family and a policy
READINGS = {"steps": "equal steps", "tokens": "equal generated tokens"}


class StudySection(Section):
    """What the study is called, and what all runs have in common."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")]
    """Name of the study; its runs are in <output_dir>/<name>/<family>-<policy>-<variant>-s<seed>."""
    base: Path
    """Configuration that every run's is made from; relative to the study file."""
    set: Settings = Field(default_factory=dict)
    """Tables with the keys of a run's configuration, over those of the base; but for run, which the study makes."""
    seeds: Seeds
    """Each sets run.seed. The built-in model and problems, nano.seed, stay the same: runs are paired by problem and seed."""
    steps: PositiveInt
    """Iterations of every run, and where "equal steps" is read."""
    output_dir: Path = Path("runs/studies")
    """Relative to the working directory."""
    parallel: Annotated[int, Field(ge=1, le=64)] = 1
    """Runs at one time; the machine's cores are shared out among them."""
    curves: tuple[Name, ...] = ()
    """Variants that are drawn against each other."""
    record: Path | None = None
    """Folder of the durable record; None: record/ in the study's folder. Relative to the working directory."""
    page: Path | None = None
    """Markdown page with the study's section; None: results.md in the study's folder. Relative to the working directory."""


class Overrides(Section):
    """One choice in which runs differ."""

    title: str | None = None
    """What tables call it; None: its name."""
    set: Settings = Field(default_factory=dict)
    """Like study.set, and over it: first the family's, then the policy's, then the variant's."""


class Variant(Overrides):
    """A way to train, and where it is tried."""

    families: tuple[Name, ...] | None = None
    """None: all."""
    policies: tuple[Name, ...] | None = None
    """None: all."""
    seeds: Seeds | None = None
    """None: those of the study."""
    steps_factor: Annotated[float, Field(ge=1.0)] = 1.0
    """Run so many times the study's steps, so that it can be read where it has generated as many tokens as another."""


class Pairing(Section):
    """Two variants that are compared wherever both were run with the same family, policy and seed: first less second."""

    first: Name
    second: Name
    at: Annotated[tuple[Literal["steps", "tokens"], ...], Field(min_length=1)] = ("steps",)
    """steps: both after the study's steps. tokens: the first after the study's steps, the second at its first evaluation by which
    it had generated as many tokens."""


class Quick(Section):
    """What `--quick` replaces; the study is then called <name>-quick, and its record and page lie in its own folder."""

    steps: PositiveInt | None = None
    seeds: Seeds | None = None
    families: tuple[Name, ...] | None = None
    policies: tuple[Name, ...] | None = None
    variants: tuple[Name, ...] | None = None
    set: Settings = Field(default_factory=dict)
    """Over everything else."""


class StudyConfig(Section):
    """A whole study."""

    study: StudySection
    families: dict[Name, Overrides] = Field(min_length=1)
    policies: dict[Name, Overrides] = Field(min_length=1)
    variants: dict[Name, Variant] = Field(min_length=1)
    comparisons: tuple[Pairing, ...] = ()
    quick: Quick = Quick()

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for key, names, known in self._named():
            unknown = sorted(set(names) - set(known))
            if unknown:
                raise ValueError(f"{key}: there is no {unknown[0]}; there are {', '.join(known)}")
        return self

    def _named(self) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
        """Key, the names that it holds, and those that there are."""
        families, policies, variants = tuple(self.families), tuple(self.policies), tuple(self.variants)
        named = [("study.curves", self.study.curves, variants)]
        for name, variant in self.variants.items():
            named.append((f"variants.{name}.families", variant.families or (), families))
            named.append((f"variants.{name}.policies", variant.policies or (), policies))
        named += [(f"comparisons.{n}", (c.first, c.second), variants) for n, c in enumerate(self.comparisons)]
        named.append(("quick.families", self.quick.families or (), families))
        named.append(("quick.policies", self.quick.policies or (), policies))
        named.append(("quick.variants", self.quick.variants or (), variants))
        return named

    @property
    def folder(self) -> Path:
        """The folder of the study's runs."""
        return self.study.output_dir / self.study.name

    @property
    def record(self) -> Path:
        """The folder of the record."""
        return self.study.record or self.folder / "record"

    @property
    def page(self) -> Path:
        """The page with the study's section."""
        return self.study.page or self.folder / "results.md"

    def title(self, kind: Literal["families", "policies", "variants"], name: str) -> str:
        """What tables call a family, policy or variant."""
        choice: Overrides = getattr(self, kind)[name]
        return choice.title or name

    @property
    def cells(self) -> list[Cell]:
        """Every family with every policy."""
        return [(family, policy) for family in self.families for policy in self.policies]

    def cell_title(self, cell: Cell) -> str:
        """What tables and figures call a family with a policy."""
        return f"{self.title('families', cell[0])}, {self.title('policies', cell[1])}"

    def made_quick(self) -> "StudyConfig":
        """The study that `--quick` runs."""
        quick = self.quick

        def kept(choices: dict[str, Any], names: tuple[str, ...] | None) -> dict[str, Any]:
            return {name: value for name, value in choices.items() if names is None or name in names}

        variants = {
            name: variant.model_copy(
                update={
                    "families": _shared(variant.families, quick.families),
                    "policies": _shared(variant.policies, quick.policies),
                    "seeds": None if quick.seeds else variant.seeds,
                }
            )
            for name, variant in kept(self.variants, quick.variants).items()
        }
        there = [pair for pair in self.comparisons if {pair.first, pair.second} <= set(variants)]
        study = self.study.model_copy(
            update={
                "name": f"{self.study.name}-quick",
                "seeds": quick.seeds or self.study.seeds,
                "steps": quick.steps or self.study.steps,
                "curves": tuple(name for name in self.study.curves if name in variants),
                "record": None,
                "page": None,
            }
        )
        return self.model_copy(
            update={
                "study": study,
                "families": kept(self.families, quick.families),
                "policies": kept(self.policies, quick.policies),
                "variants": variants,
                "comparisons": tuple(there),
            }
        )


def _shared(own: tuple[str, ...] | None, chosen: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Names that both have; None stands for all."""
    if own is None or chosen is None:
        return own if chosen is None else chosen
    return tuple(name for name in own if name in chosen)


def load_study(path: Path) -> StudyConfig:
    """Read a study file.

    Raises:
        ConfigError: it is missing, is not TOML, or holds unknown keys or impossible values.
    """
    config = parse_model(StudyConfig, read_toml(path), str(path))
    base = path.parent / config.study.base
    return config.model_copy(update={"study": config.study.model_copy(update={"base": base})})


def run_name(family: str, policy: str, variant: str, seed: int) -> str:
    """What a run is called; none of the names has a hyphen.

    >>> run_name("chain", "cold", "tapo", 3)
    'chain-cold-tapo-s3'
    """
    return f"{family}-{policy}-{variant}-s{seed}"
