"""The tables of a study, made from its record alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tapo_core.comparison import CONFIDENCE, RESAMPLES
from tapo_core.ids import derive_seed
from tapo_core.statistics import Counts, Crossed, Estimate, compare_crossed, crossed_estimate, part
from tapo_core.study.config import METRICS, READINGS, Cell, Pairing, StudyConfig
from tapo_core.study.record import Record
from tapo_core.text import markdown_table

Policy = tuple[str, int]  #: a run's name and an iteration: the policy version that came out of it

_NAMES = {"pass@1": "pass@1", "pass@4": "pass@4", "dsr": "DSR", "err": "ERR"}
_NONE = "\N{EM DASH}"


class Readings:
    """A record, asked by run and iteration."""

    def __init__(self, record: Record) -> None:
        """Only runs that are in the record are known."""
        self._problems: dict[Policy, dict[str, Counts]] = {}
        for row in record.problems:
            counts = Counts(row["n"], row["n_correct"], row["n_reflecting"], row["n_correct_reflecting"])
            self._problems.setdefault((row["run"], row["iteration"]), {})[row["problem"]] = counts
        self._tokens: dict[Policy, int] = {(r["run"], r["iteration"]): r["generated_tokens"] for r in record.curves}
        self._runs: dict[tuple[str, str, str], dict[int, str]] = {}
        for row in record.runs:
            self._runs.setdefault((row["family"], row["policy"], row["variant"]), {})[row["seed"]] = row["run"]

    def runs(self, cell: Cell, variant: str) -> dict[int, str]:
        """Names by seed."""
        return dict(sorted(self._runs.get((*cell, variant), {}).items()))

    def evaluated(self, run: str, iteration: int) -> bool:
        """Whether the policy that came out of an iteration was evaluated."""
        return (run, iteration) in self._problems

    def not_alike(self, pair: "Pair") -> list[int]:
        """Seeds whose two runs have other evaluations before training: the built-in model is built once a machine, and another
        machine's arithmetic makes a slightly different one."""
        runs = zip(pair.seeds, pair.first, pair.second, strict=True)
        return [seed for seed, (a, _), (b, _) in runs if self._problems.get((a, 0)) != self._problems.get((b, 0))]

    def tokens(self, run: str, iteration: int) -> int:
        """Generated for training by then."""
        return 0 if iteration == 0 else self._tokens[run, iteration]

    def first_with(self, run: str, tokens: int) -> int | None:
        """The first iteration with an evaluation by which a run had generated so many tokens; None if it ended before."""
        there = sorted(iteration for name, iteration in self._problems if name == run)
        return next((iteration for iteration in there if self.tokens(run, iteration) >= tokens), None)

    def crossed(self, metric: str, *groups: Sequence[Policy]) -> list[Crossed] | None:
        """A metric of groups of policies, one policy a seed, on the problems that all of them have.

        None if there is no such problem, with at least k samples each for pass@k.
        """
        least = int(metric.removeprefix("pass@")) if metric.startswith("pass@") else 1
        every = [self._problems[policy] for group in groups for policy in group]
        shared = sorted(
            problem
            for problem in set.intersection(*map(set, every))
            if all(found[problem].n >= least for found in every)
        )
        if not shared:
            return None
        made = []
        for group in groups:
            parts = [[part(metric, self._problems[policy][problem]) for problem in shared] for policy in group]
            above_below = np.array(parts, dtype=float)
            made.append(Crossed(above_below[..., 0], above_below[..., 1]))
        return made


@dataclass(frozen=True, slots=True)
class Pair:
    """What is compared in one cell: the same seeds' policies of both variants, in their order."""

    seeds: list[int]
    first: list[Policy]
    second: list[Policy]
    not_reached: list[int]  #: seeds whose second run ended before it had generated as many tokens


def paired(readings: Readings, study: StudyConfig, pairing: Pairing, at: str, cell: Cell) -> Pair:
    """The policies that a comparison is about, for the seeds that both variants were run with."""
    steps = study.study.steps
    first, second = readings.runs(cell, pairing.first), readings.runs(cell, pairing.second)
    pair = Pair([], [], [], [])
    for seed in sorted(first.keys() & second.keys()):
        there: int | None = steps
        if at == "tokens":
            there = readings.first_with(second[seed], readings.tokens(first[seed], steps))
            if there is None:
                pair.not_reached.append(seed)
        if there is not None and readings.evaluated(first[seed], steps) and readings.evaluated(second[seed], there):
            pair.seeds.append(seed)
            pair.first.append((first[seed], steps))
            pair.second.append((second[seed], there))
    return pair


def variant_tables(study: StudyConfig, readings: Readings) -> list[str]:
    """For each family and policy: every variant after the study's steps, and the policy that all began with."""
    blocks = []
    for cell in study.cells:
        rows: list[list[str]] = []
        for variant in study.variants:
            runs = readings.runs(cell, variant)
            at = study.study.steps
            after = [(run, at) for run in runs.values() if readings.evaluated(run, at)]
            before = [(run, 0) for run, _ in after if readings.evaluated(run, 0)]
            if before and not rows:
                rows.append(["before training", *_estimates(study, readings, before), "0"])
            if after:
                mean = sum(readings.tokens(*policy) for policy in after) / len(after)
                title = study.title("variants", variant)
                rows.append([title, *_estimates(study, readings, after), f"{mean:,.0f}"])
        if rows:
            header = ["", "seeds", *_NAMES.values(), "generated tokens, mean"]
            blocks.append(f"**{study.cell_title(cell)}**, after {study.study.steps} iterations:")
            blocks.append(markdown_table(header, rows))
    return blocks


def _estimates(study: StudyConfig, readings: Readings, policies: Sequence[Policy]) -> list[str]:
    """Number of seeds, then every metric."""
    cells = [str(len(policies))]
    for metric in METRICS:
        found = readings.crossed(metric, policies)
        estimate = None if found is None else crossed_estimate(found[0], CONFIDENCE, RESAMPLES, _seed(study))
        cells.append(_NONE if estimate is None else _interval(estimate, "{:.1f}"))
    return cells


def comparison_tables(study: StudyConfig, readings: Readings) -> list[str]:
    """A table for each comparison and each way to read it; nothing where no seed has both variants."""
    blocks = []
    for pairing in study.comparisons:
        for at in pairing.at:
            rows, notes = [], []
            for cell in study.cells:
                pair = paired(readings, study, pairing, at, cell)
                rows += _differences(study, readings, cell, pair, at)
                if pair.not_reached:
                    notes.append(f"{study.cell_title(cell)}: not reached with seeds {_listed(pair.not_reached)}.")
                if not_alike := readings.not_alike(pair):
                    notes.append(
                        f"{study.cell_title(cell)}: the two runs of seeds {_listed(not_alike)} did not begin alike: their "
                        "evaluations before training differ, as do initial models built on two machines."
                    )
            first, second = (study.title("variants", name) for name in (pairing.first, pairing.second))
            if rows or notes:
                blocks.append(f"**{first} less {second}, at {READINGS[at]}** (points):")
            if rows:
                header = ["family", "initial policy", "metric", "difference", "p", "by seed", "seeds"]
                blocks.append(markdown_table([*header, *(["second read after"] if at == "tokens" else [])], rows))
            blocks += notes
    return blocks


def _differences(study: StudyConfig, readings: Readings, cell: Cell, pair: Pair, at: str) -> list[list[str]]:
    """A row for each metric."""
    rows = []
    for metric in METRICS if pair.seeds else ():
        found = readings.crossed(metric, pair.first, pair.second)
        compared = None if found is None else compare_crossed(found[0], found[1], CONFIDENCE, RESAMPLES, _seed(study))
        titles = [study.title("families", cell[0]), study.title("policies", cell[1]), _NAMES[metric]]
        if compared is None:
            row = [*titles, _NONE, _NONE, _NONE]
        else:
            by_seed = ", ".join(_points("{:+.1f}", value) for value in compared.by_seed)
            row = [*titles, _interval(compared.difference, "{:+.1f}"), f"{compared.p_value:.3f}", by_seed]
        row.append(_listed(pair.seeds))
        if at == "tokens":
            row.append(_listed(iteration for _, iteration in pair.second))
        rows.append(row)
    return rows


def _seed(study: StudyConfig) -> int:
    return derive_seed(0, study.study.steps, "study", study.study.name)


def _points(shape: str, value: float) -> str:
    """A share in percent; a difference that rounds to zero has no sign of its own."""
    text = _NONE if value != value else shape.format(100.0 * value)
    return "+0.0" if text == "-0.0" else text


def _interval(estimate: Estimate, shape: str) -> str:
    value, low, high = (_points(shape, x) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))
