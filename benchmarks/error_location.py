"""How often each method of error location finds the first wrong step.

    .venv/bin/python benchmarks/error_location.py [FILE.jsonl ...]

Files hold one attempt a line: steps (list of texts), label (0-based index of the first wrong step, -1 or null if there is none),
and optionally subset. Attempts of the built-in task families, whose first error is known, are always added. Attempts without
an error are left out.

Printed for each subset: how many attempts; the share the method flags at all; exact and within-one accuracy over *all* attempts,
an unflagged one counting as a miss; how often a flag bounds the error (the error is at the flagged step or before it); and the
exact accuracy of the best constant step, chosen in hindsight.
"""

import argparse
import json
import random
from collections import Counter, defaultdict
from pathlib import Path

from tapo_core.error_location import METHODS
from tapo_core.nano.examples import Shares, draw_attempt
from tapo_core.nano.families import FAMILIES, get_family
from tapo_core.steps import split_steps

Attempt = tuple[list[str], int]


def read(path: Path) -> dict[str, list[Attempt]]:
    """The wrong attempts of a file, by subset."""
    found: dict[str, list[Attempt]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["label"] is not None and row["label"] >= 0:
            # A step is a line here: line breaks within one would make several of it.
            steps = [" ".join(step.split()) or "-" for step in row["steps"]]
            found[f"{path.stem}/{row.get('subset', 'all')}"].append((steps, row["label"]))
    return found


def built_in(n: int) -> dict[str, list[Attempt]]:
    """Wrong attempts of each family, without noticed slips (a false line that is withdrawn is no error)."""
    found: dict[str, list[Attempt]] = defaultdict(list)
    for name in sorted(FAMILIES):
        family, rng = get_family(name), random.Random(0)
        for _ in range(n):
            problem = family.sample(rng, 3)
            steps = draw_attempt(problem, Shares(0.4, 0.0, 0.0), rng, right=False)
            label = family.first_error(problem, steps)
            if label is not None:
                found[f"nano/{name}"].append((steps, label))
    return found


def main() -> None:
    """Read, locate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--built-in", type=int, default=2000, help="attempts of each built-in family")
    arguments = parser.parse_args()
    sets = built_in(arguments.built_in)
    for path in arguments.files:
        sets.update(read(path))
    head = ("flagged", "exact", "within 1", "bounds", "constant")
    print(f"{'subset':44} {'method':12} {'n':>6}" + "".join(f"{name:>10}" for name in head))
    for name, attempts in sorted(sets.items()):
        constant = Counter(label for _, label in attempts).most_common(1)[0][1] / len(attempts)
        for method, locate in METHODS.items():
            found = [(locate(split_steps("\n".join(steps))).step, label) for steps, label in attempts]
            flags = [(step, label) for step, label in found if step is not None]
            shares = (
                len(flags) / len(found),
                sum(step == label for step, label in flags) / len(found),
                sum(abs(step - label) <= 1 for step, label in flags) / len(found),
                sum(label <= step for step, label in flags) / max(1, len(flags)),
                constant,
            )
            print(f"{name:44} {method:12} {len(attempts):6d}" + "".join(f"{share:10.1%}" for share in shares))


if __name__ == "__main__":
    main()
