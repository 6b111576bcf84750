"""How long the search for duplicates takes, and what it finds, among made-up problems with planted copies.

    .venv/bin/python benchmarks/decontamination.py                    # 40,000 training queries, 5,000 benchmark problems
    .venv/bin/python benchmarks/decontamination.py TRAIN.jsonl BENCHMARK.jsonl ...   # pairs in files of your own

Words are drawn with Zipf's frequencies, 20 to 120 a problem, with a number in every eighth place; one problem in twenty is a
copy of a benchmark's problem, changed in one of the ways that are listed.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tapo_core.data import load_queries
from tapo_core.decontamination import find_overlaps, find_repeats
from tapo_core.records import Query

Change = Callable[[random.Random, list[str]], list[str]]


def one_word(rng: random.Random, words: list[str]) -> list[str]:
    """One word replaced."""
    place = rng.choice([i for i, word in enumerate(words) if word.isalpha()])
    return [*words[:place], "replaced", *words[place + 1 :]]


def every_tenth(rng: random.Random, words: list[str]) -> list[str]:
    """Every tenth word left out, numbers kept."""
    first = rng.randrange(10)
    return [word for i, word in enumerate(words) if i % 10 != first or not word.isalpha()]


def other_number(rng: random.Random, words: list[str]) -> list[str]:
    """One number changed: another problem of the same template."""
    place = rng.choice([i for i, word in enumerate(words) if not word.isalpha()])
    return [*words[:place], str(int(words[place]) + rng.randrange(1, 9)), *words[place + 1 :]]


CHANGES: dict[str, Change] = {
    "none": lambda _rng, words: words,
    "case, punctuation, LaTeX": lambda _rng, words: [f"${word}$" if not word.isalpha() else word.upper() + "," for word in words],
    "one word replaced": one_word,
    "every tenth word left out": every_tenth,
    "quoted in a longer text": lambda _rng, words: ["Problem", "3", "(2", "points):", *words, "Show", "your", "work"],
    "one number changed (no duplicate)": other_number,
}  # fmt: skip


def problem(rng: random.Random, vocabulary: list[str], weights: list[float]) -> list[str]:
    """The words of one problem."""
    words = rng.choices(vocabulary, cum_weights=weights, k=rng.randrange(20, 121))
    return [str(rng.randrange(1, 100)) if i % 8 == 3 else word for i, word in enumerate(words)]


def query(split: str, number: int, words: list[str], gold: str, family: str | None = None) -> Query:
    """A query with a readable id."""
    return Query(f"{split}-{number}", "", split, " ".join(words), gold, family, None, f"{split}:{number}", "")


def made_up(n_train: int, n_other: int, seed: int) -> tuple[list[Query], list[Query]]:
    """Training queries, with the change of each planted copy as its family, and a benchmark."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(rng.choices(letters, k=rng.randrange(2, 10))) for _ in range(5000)]
    weights, total = [], 0.0
    for rank in range(1, len(vocabulary) + 1):
        weights.append(total := total + 1 / rank)
    texts = [problem(rng, vocabulary, weights) for _ in range(n_other)]
    golds = [str(rng.randrange(1000)) for _ in range(n_other)]
    others = [query("benchmark", i, words, gold) for i, (words, gold) in enumerate(zip(texts, golds, strict=True))]
    train = []
    for i in range(n_train):
        if i % 20:
            train.append(query("train", i, problem(rng, vocabulary, weights), str(rng.randrange(1000))))
        else:
            name, source = list(CHANGES)[i // 20 % len(CHANGES)], rng.randrange(n_other)
            train.append(query("train", i, CHANGES[name](rng, texts[source]), golds[source], name))
    return train, others


def main() -> None:
    """Print CPU seconds and counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "files", nargs="*", type=Path, help="training queries, then benchmarks (columns problem and answer)"
    )
    parser.add_argument("--train", type=int, default=40_000)
    parser.add_argument("--benchmark", type=int, default=5_000)
    arguments = parser.parse_args()
    if arguments.files:
        train, *rest = [load_queries(path, f"file-{i}", "") for i, path in enumerate(arguments.files)]
        others = [query for queries in rest for query in queries]
    else:
        train, others = made_up(arguments.train, arguments.benchmark, seed=0)
    began = time.process_time()
    overlaps = find_overlaps(train, others)
    seconds = time.process_time() - began
    print(f"{len(train)} queries against {len(others)}: {seconds:.1f} CPU s, {Counter(o.kind.value for o in overlaps)}")
    began = time.process_time()
    repeats = find_repeats(train)
    print(f"among themselves: {time.process_time() - began:.1f} CPU s, {Counter(o.kind.value for o in repeats)}")
    if arguments.files:
        return
    planted = Counter(query.family for query in train)
    found = Counter(family for family, _ in {(o.query.family, o.query.query_id) for o in overlaps})
    for change in (*CHANGES, None):
        print(f"  {change or 'not a copy'}: {found[change]} of {planted[change]} found")


if __name__ == "__main__":
    main()
