"""How fast answers are verified, beside bare math-verify in the same run; and whether verdicts hold under load.

    .venv/bin/python benchmarks/verifier.py                                  # speed, on made-up answers
    .venv/bin/python benchmarks/verifier.py --cases CASES.jsonl              # speed, on cases of your own (pred, gold)
    .venv/bin/python benchmarks/verifier.py --cases CASES.jsonl --again 100  # verdicts of so many runs, every core busy beside

Bare math-verify gets the same texts one after another in this process, in its main thread, where its own time limits work.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from math_verify import parse
from math_verify import verify as bare_verify

from tapo_core.config_verifier import VerifierConfig
from tapo_core.verification.base import Question
from tapo_core.verification.math import MathVerifier

_SYMBOLIC = (
    ("x^2+{a}x+{b}", "{b}+x({a}+x)"),
    ("\\frac{{{a}\\sqrt{{2}}}}{{2}}", "\\frac{{{a}}}{{\\sqrt{{2}}}}"),
    ("({a},{b})", "({a}, {b})"),
    ("\\{{{a}, {b}\\}}", "\\{{{b}, {a}\\}}"),
    ("{a}\\pi", "\\pi\\cdot{a}"),
    ("x={a}", "{a}"),
)
_FILLER = "We first compute the value of $x^2 + {n}$, and find that \\frac{{{n}}}{{3}} follows. "


def made_up(n: int, symbolic: float, seed: int) -> list[Question]:
    """Long rollouts with a box: integers and fractions, and a share of answers that only computer algebra can compare."""
    rng = random.Random(seed)
    questions = []
    for _ in range(n):
        a, b = rng.randrange(2, 10**6), rng.randrange(2, 10**6)
        if rng.random() < symbolic:
            given, gold = rng.choice(_SYMBOLIC)
            answer, gold = given.format(a=a, b=b), gold.format(a=a, b=b)
        elif rng.random() < 0.7:
            answer, gold = f"{a:,}", str(a if rng.random() < 0.5 else b)
        else:
            answer, gold = f"\\frac{{{a}}}{{{b}}}", f"{2 * a}/{2 * b}"
        text = "".join(_FILLER.format(n=n) for n in range(10)) + f"The answer is $\\boxed{{{answer}}}$."
        questions.append(Question("", gold, text))
    return questions


def from_file(path: Path) -> list[Question]:
    """Rows with pred and gold."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Question("", row["gold"], row["pred"]) for row in rows]


def rate(what: str, n: int, work: Callable[[], object]) -> float:
    """Texts a second; printed."""
    begun = time.perf_counter()
    work()
    seconds = time.perf_counter() - begun
    print(f"{what:48s} {n / seconds:10,.0f} texts/s   ({n} in {seconds:.2f} s)", flush=True)
    return n / seconds


def bare(questions: Sequence[Question]) -> None:
    """math-verify as its manual has it."""
    for question in questions:
        bare_verify(parse(f"${question.gold}$"), parse(question.text))


def warmed(workers: int) -> MathVerifier:
    """With its workers up."""
    verifier = MathVerifier(VerifierConfig(), workers)
    verifier.verify([Question("", f"x+{n}", f"\\boxed{{{n}+x}}") for n in range(8 * workers)])
    time.sleep(3.0)
    return verifier


def speed(cases: list[Question] | None) -> None:
    """Texts a second of each tier and mix, and their ratios."""
    numbers = made_up(20_000, symbolic=0.0, seed=1)
    mix = cases or made_up(1_000, symbolic=0.15, seed=2)
    symbolic = made_up(400, symbolic=1.0, seed=3)
    one, two = warmed(1), warmed(2)
    cheap = rate("numbers only (no worker is asked)", len(numbers), lambda: one.verify(numbers))
    alone = rate("bare math-verify, numbers only", 500, lambda: bare(numbers[:500]))
    cold = rate("mix, cold, 2 workers", len(mix), lambda: two.verify(mix))
    cached = rate("mix, cached", len(mix), lambda: two.verify(mix))
    mixed = rate("bare math-verify, mix", len(mix), lambda: bare(mix))
    with_one = rate("symbolic only, cold, 1 worker", len(symbolic), lambda: one.verify(symbolic))
    with_two = rate("symbolic only, cold, 2 workers", len(symbolic), lambda: two.verify(symbolic))
    one.close()
    two.close()
    print(
        f"numbers: {cheap / alone:.0f} times bare math-verify; mix: cold {cold / mixed:.1f}, cached {cached / mixed:.1f} times"
    )
    print(f"second worker: {with_two / with_one:.2f} times one ({os.cpu_count()} cores)")


def _burn() -> None:
    while True:
        pass


def stability(questions: list[Question], runs: int) -> int:
    """Verdicts that flipped between correct and wrong in so many runs, each by a verifier that remembers nothing."""
    reference: list[str] | None = None
    flips = unknown = 0
    burners = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(os.cpu_count() or 1)]
    for burner in burners:
        burner.start()
    verifier = MathVerifier(VerifierConfig(), workers=2)
    try:
        for run in range(1, runs + 1):
            verifier._cache = None
            found = [str(verdict.outcome) for verdict in verifier.verify(questions)]
            reference = reference or found
            pairs = Counter((a, b) for a, b in zip(reference, found, strict=True) if a != b)
            unknown += sum(count for pair, count in pairs.items() if "unknown" in pair)
            flips += sum(count for pair, count in pairs.items() if "unknown" not in pair)
            if run % 10 == 0 or run == runs:
                print(f"{run} runs: {flips} verdicts flipped, {unknown} to or from unknown", flush=True)
    finally:
        verifier.close()
        for burner in burners:
            burner.kill()
    return flips


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--again", type=int, default=0)
    arguments = parser.parse_args()
    cases = from_file(arguments.cases) if arguments.cases else None
    if arguments.again:
        sys.exit(stability(cases or made_up(400, symbolic=0.5, seed=4), arguments.again) > 0)
    speed(cases)


if __name__ == "__main__":
    main()
