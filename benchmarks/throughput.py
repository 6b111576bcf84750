"""A whole iteration of ours beside TRL's GRPOTrainer and beside the bare engines, same model, same batch, in one run.

    .venv/bin/pip install --no-deps trl==1.16.0
    .venv/bin/python benchmarks/throughput.py [--queries 48] [--rollouts 8] [--iterations 4] [--rounds 2] [--json FILE]
        [--set nano.hidden_size=256 ...]

Each variant (`throughput_variants.py` says what each one is) runs in a process of its own, in every round once, in turn, so that
what else the machine does hits all alike. Ours and the bare engines sample with the same seeds; in how many iterations their
tokens are the same (a weight may differ in its last digit) is printed. TRL draws its own texts for the same queries. The first
iteration, which starts the engines (of ours the trainer alone: an evaluation before it starts vLLM), is told apart; all others
are measured, and the figures are medians over all rounds. Sampling is the same work in ours and in the bare process: where it
takes times that differ by more than a tenth, the machine was too uneven, and the limit is not settled. (Scoring and update are
not the same: the bare `Actor` makes all logits of a text, ours those of responses, in chunks, and entropies.)

Exits with status 1 unless the limits hold (at least 1.5 times TRL's samples/s, at most 1.10 of the bare engines' time), and with
2 if nothing could be measured.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

LEAST_OF_TRL, MOST_OF_BARE = 1.5, 1.10
VARIANTS = {
    "grpo": "ours, GRPO",
    "bare": "bare vLLM + OpenRLHF",
    "trl": "TRL, HF generate",
    "trl_vllm": "TRL, vLLM colocate",
    "tapo": "ours, TAPO",
}
#: The parts of an iteration that are calls of engines; sampling first.
ENGINE_PARTS = {
    "grpo": ("engine sample", "engine update_policy"),
    "bare": ("sampling", "score", "update"),
}
Row = dict[str, Any]


def _fail(why: str) -> NoReturn:
    print(f"throughput.py: {why}", file=sys.stderr)
    sys.exit(2)


def run_variant(variant: str, spec: Row) -> Any:
    """What one variant reports. Ends the benchmark if it fails, with the end of what it said."""
    with tempfile.TemporaryDirectory() as folder:
        return _run_in(Path(folder), variant, spec)


def _run_in(folder: Path, variant: str, spec: Row) -> Any:
    out, log, spec_path = folder / "out.json", folder / "log", folder / "spec.json"
    spec_path.write_text(json.dumps(spec | {"folder": str(folder)}))
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, str(root / "benchmarks" / "throughput_variants.py"), variant, str(spec_path), str(out)]
    paths = [str(root), os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [str(root)]
    # Prefect's own server in the process is given up after 20 s, which a busy machine takes to start it.
    environment = {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120"} | os.environ
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    with log.open("w") as file:
        status = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if status != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        _fail(f"{variant} failed (status {status}):\n{tail}")
    return json.loads(out.read_text())


def measure(arguments: argparse.Namespace, variants: Sequence[str]) -> dict[str, list[list[Row]]]:
    """Variant -> a list of rounds, each a list of iterations."""
    rounds: dict[str, list[list[Row]]] = {variant: [] for variant in variants}
    spec: Row = {
        "queries": arguments.queries,
        "rollouts": arguments.rollouts,
        "iterations": arguments.iterations + 1,
        "trl_micro_batch": arguments.trl_micro_batch,
        "settings": arguments.set,
    }
    spec |= run_variant("prepare", spec)
    for number in range(arguments.rounds):
        turn = number % len(variants)
        for variant in (*variants[turn:], *variants[:turn]):
            load = os.getloadavg()[0]
            result = run_variant(variant, spec)
            rows: list[Row] = result["rows"]
            rounds[variant].append(rows)
            seconds = " ".join(f"{row['seconds']:.1f}" for row in rows)
            print(
                f"round {number + 1} {VARIANTS[variant]:22} {seconds} s  (load {load:.1f}, {result['threads']} threads)",
                flush=True,
            )
    return rounds


def summary(rounds: list[list[Row]]) -> Row:
    """Medians over all iterations but the first of each round."""
    timed = [row for rows in rounds for row in rows[1:]]
    seconds = statistics.median(row["seconds"] for row in timed)
    n_samples, n_tokens = (statistics.median(row[name] for row in timed) for name in ("n_samples", "n_tokens"))
    parts = {name: statistics.median(row["parts"].get(name, 0.0) for row in timed) for name in timed[0]["parts"]}
    return {
        "first": statistics.median(rows[0]["seconds"] for rows in rounds),
        "seconds": seconds,
        "least": min(row["seconds"] for row in timed),
        "most": max(row["seconds"] for row in timed),
        "samples_per_second": n_samples / seconds,
        "tokens": n_tokens,
        "tokens_per_second": n_tokens / seconds,
        "correct": sum(row["n_correct"] for row in timed) / sum(row["n_samples"] for row in timed),
        "parts": parts,
    }


def same_texts(ours: list[list[Row]], bare: list[list[Row]]) -> tuple[int, int]:
    """Iterations in which ours and the bare engines sampled the same tokens, of how many. The first must be one of them."""
    pairs = [pair for one, two in zip(ours, bare, strict=True) for pair in zip(one, two, strict=True)]
    if any(a["digest"] != b["digest"] for a, b in pairs if a["iteration"] == 1):
        _fail("ours and the bare engines sampled different texts from the same model with the same seeds")
    return sum(a["digest"] == b["digest"] for a, b in pairs), len(pairs)


def print_extra(grpo: list[list[Row]], tapo: list[list[Row]]) -> Row:
    """What TAPO takes beside GRPO: tokens, and seconds of each stage; means over all iterations but the first."""
    ours = {name: [row for rows in rounds for row in rows[1:]] for name, rounds in (("grpo", grpo), ("tapo", tapo))}
    extra = {
        name: statistics.fmean(row["constructions"][name] for row in ours["tapo"])
        for name in ours["tapo"][0]["constructions"]
    }
    print("\nTAPO beside GRPO, means an iteration:")
    print("  " + ", ".join(f"{name} {value:.0f}" for name, value in extra.items()))
    stages = {
        stage: tuple(statistics.fmean(row["stages"][stage] for row in ours[method]) for method in ("grpo", "tapo"))
        for stage in ours["tapo"][0]["stages"]
    }
    print(f"  {'stage':24}{'GRPO s':>8}{'TAPO s':>8}{'extra s':>8}")
    for stage, (without, with_) in stages.items():
        print(f"  {stage:24}{without:8.2f}{with_:8.2f}{with_ - without:8.2f}")
    return {"tokens": extra, "stages": stages}


def main() -> None:
    """Measure, print, and compare with the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=48, help="queries an iteration (of 240)")
    parser.add_argument("--rollouts", type=int, default=8, help="rollouts a query")
    parser.add_argument("--iterations", type=int, default=4, help="measured, after the first")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--trl-micro-batch", type=int, default=128, help="sequences in one of TRL's backward passes")
    parser.add_argument("--variants", nargs="+", default=["grpo", "bare", "trl", "tapo"], choices=VARIANTS)
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of all variants, as of tapo train"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    total = arguments.queries * arguments.rollouts
    if total % min(arguments.trl_micro_batch, total) and any(v.startswith("trl") for v in arguments.variants):
        parser.error(f"--trl-micro-batch {arguments.trl_micro_batch} does not divide {total} samples")
    if min(arguments.iterations, arguments.rounds) < 1:
        parser.error("--iterations and --rounds are at least 1")
    rounds = measure(arguments, arguments.variants)
    found = {variant: summary(rows) for variant, rows in rounds.items()}
    print(
        f"\n{arguments.queries} queries x {arguments.rollouts} rollouts, seconds an iteration (median; least to most):"
    )
    print(f"{'':24}{'first':>7}{'s':>8}{'':>15}{'samples/s':>11}{'tokens':>9}{'tokens/s':>10}{'correct':>9}")
    for variant, row in found.items():
        print(
            f"{VARIANTS[variant]:24}{row['first']:7.1f}{row['seconds']:8.2f} {row['least']:6.2f}-{row['most']:<7.2f}"
            f"{row['samples_per_second']:11.1f}{row['tokens']:9.0f}{row['tokens_per_second']:10.0f}{row['correct']:9.1%}"
        )
    for variant in ("grpo", "bare"):
        if variant in found:
            parts = found[variant]["parts"]
            print(f"{VARIANTS[variant]}: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items()))
    report: Row = {"arguments": {k: str(v) for k, v in vars(arguments).items()}, "rounds": rounds, "summary": found}
    missed = False
    if {"grpo", "bare"} <= set(found):
        same, of = same_texts(rounds["grpo"], rounds["bare"])
        print(f"ours and the bare engines sampled the same tokens in {same} of {of} iterations")
        ratio = found["grpo"]["seconds"] / found["bare"]["seconds"]
        engines = {v: sum(found[v]["parts"].get(name, 0.0) for name in names) for v, names in ENGINE_PARTS.items()}
        own = found["grpo"]["seconds"] / engines["grpo"]
        sampling = {v: found[v]["parts"][names[0]] for v, names in ENGINE_PARTS.items()}
        agreement = sampling["grpo"] / sampling["bare"]
        settled = 1 / MOST_OF_BARE <= agreement <= MOST_OF_BARE
        report |= {"of_bare": ratio, "of_own_engine_calls": own, "sampling_agreement": agreement, "settled": settled}
        missed = missed or ratio > MOST_OF_BARE or not settled
        verdict = _verdict(ratio <= MOST_OF_BARE) if settled else "NOT SETTLED"
        print(f"time, ours / bare engines: {ratio:.2f} (at most {MOST_OF_BARE:.2f}): {verdict}")
        print(
            f"  sampling, the same work: {sampling['grpo']:.2f} s in ours, {sampling['bare']:.2f} s bare"
            + (
                ""
                if settled
                else "; they differ by more than the limit allows, so the machine's noise decides the ratio"
            )
        )
        print(f"  all calls of engines: {engines['grpo']:.2f} s in ours, {engines['bare']:.2f} s bare")
        print(f"  ours / its own engine calls, in one process: {own:.2f}")
    for variant in ("trl", "trl_vllm"):
        if {"grpo", variant} <= set(found):
            ratio = found["grpo"]["samples_per_second"] / found[variant]["samples_per_second"]
            limit = variant == "trl"
            report[f"of_{variant}"], missed = ratio, missed or (limit and ratio < LEAST_OF_TRL)
            told = f" (at least {LEAST_OF_TRL:.1f}): {_verdict(ratio >= LEAST_OF_TRL)}" if limit else ""
            print(f"samples/s, ours / {VARIANTS[variant]}: {ratio:.2f}{told}")
    if {"grpo", "tapo"} <= set(found):
        report["extra"] = print_extra(rounds["grpo"], rounds["tapo"])
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(missed)


def _verdict(holds: bool) -> str:
    return "holds" if holds else "MISSED"


if __name__ == "__main__":
    main()
