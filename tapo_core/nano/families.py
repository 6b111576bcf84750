"""The registry of task families, and the files of problems made from them.

Only the standard library is needed here. A problem belongs to the training or the held-out split by the hash of its text, so the
splits share no problem whatever the seeds, counts and levels they were drawn with.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from tapo_core.errors import ConfigError, DataError
from tapo_core.ids import derive_seed, sha256_text
from tapo_core.nano.chained import ChainedArithmetic
from tapo_core.nano.equations import Equations
from tapo_core.nano.task import Problem, TaskFamily

Split = Literal["train", "held_out"]

FAMILIES: Final[Mapping[str, TaskFamily]] = {family.name: family for family in (ChainedArithmetic(), Equations())}

#: One problem in this many belongs to the held-out split.
_HELD_OUT_SHARE = 4
#: Draws without a new problem after which a level counts as exhausted.
_MAX_MISSES = 2000


def get_family(name: str) -> TaskFamily:
    """The registered family of a name.

    Raises:
        ConfigError: there is none; the message lists the names there are.
    """
    if name not in FAMILIES:
        raise ConfigError(f"unknown task family {name!r}; known: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]


def split_of(text: str) -> Split:
    """The split that a problem's text belongs to, for ever."""
    return "held_out" if int(sha256_text(text)[:8], 16) % _HELD_OUT_SHARE == 0 else "train"


def sample_in_split(family: TaskFamily, level: int, rng: random.Random, split: Split) -> Problem:
    """A random problem of one split."""
    while True:
        problem = family.sample(rng, level)
        if split_of(problem.text) == split:
            return problem


def generate_problems(mix: Sequence[tuple[str, int]], n: int, seed: int, split: Split) -> list[Problem]:
    """`n` different problems, shared out evenly over the (family, level) pairs of `mix`, in turn.

    Raises:
        ConfigError: `mix` is empty, names an unknown family or level, or has too few different problems.
    """
    if not mix:
        raise ConfigError("no (family, level) pair to generate problems from")
    rng = random.Random(derive_seed(seed, 0, "generate_problems", split))
    problems: dict[str, Problem] = {}
    for i in range(n):
        name, level = mix[i % len(mix)]
        family = get_family(name)
        for _ in range(_MAX_MISSES):
            try:
                problem = sample_in_split(family, level, rng, split)
            except ValueError as error:
                raise ConfigError(f"family {name!r}: {error}") from error
            if problem.text not in problems:
                problems[problem.text] = problem
                break
        else:
            raise ConfigError(
                f"family {name!r} has too few different problems of level {level} for {n} in the split {split!r}; "
                f"ask for fewer or add levels ({len(problems)} were found)"
            )
    return list(problems.values())


def problem_id(problem: Problem) -> str:
    """A readable id that depends on nothing but the problem: ``chain-4-1f0c9a2b77de``."""
    return f"{problem.family}-{problem.level}-{sha256_text(problem.text)[:12]}"


def write_queries(problems: Iterable[Problem], path: Path) -> None:
    """Write problems as JSON lines with the columns id, problem, answer, family, level."""
    with path.open("w", encoding="utf-8") as file:
        for p in problems:
            row = {"id": problem_id(p), "problem": p.text, "answer": p.answer, "family": p.family, "level": p.level}
            file.write(json.dumps(row) + "\n")


def read_queries(path: Path) -> list[Problem]:
    """The problems of a file that `write_queries` wrote.

    Raises:
        DataError: a row is no such problem; the message names file and row.
    """
    problems = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                problems.append(Problem(str(row["family"]), int(row["level"]), str(row["problem"]), str(row["answer"])))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}, row {number}: not a problem ({error!r})") from error
    return problems
