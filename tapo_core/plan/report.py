"""The plan of a run: every figure with its unit and what it is based on, and what does not fit."""

from dataclasses import dataclass

from tapo_core.config import TapoConfig
from tapo_core.plan import fit, training
from tapo_core.plan.duration import Assumed, duration_of
from tapo_core.plan.figure import Figure
from tapo_core.plan.layout import layout_of
from tapo_core.plan.machine import GIB, Machine
from tapo_core.plan.memory import cache_of, capacity, device_needs, host_need
from tapo_core.plan.rates import measured
from tapo_core.plan.shape import ModelShape, shape_of
from tapo_core.plan.turn import turns
from tapo_core.plan.volume import Expected, Tokens, disk_of, evaluations, tokens_of


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it. The run fits iff there are no problems."""

    sections: dict[str, list[Figure]]
    notes: list[str]
    problems: list[fit.Problem]


def make_plan(
    config: TapoConfig, machine: Machine, expected: Expected, assumed: Assumed, keep: int | None = None
) -> Plan:
    """Plan a run. `keep`: see `volume.disk_of`.

    Raises:
        UserError: the model's sizes are not known.
    """
    shape = shape_of(config)
    tokens = tokens_of(config, expected)
    disk = disk_of(config, shape, expected, keep)
    turn, refused = turns(config, shape)
    problems = [
        *refused,
        *fit.layout_problems(config, shape, machine),
        *fit.advised(config, shape, machine),
        *fit.disk_problems(config, disk, machine),
    ]
    sections = {
        "Model": _model(config, shape),
        "Turns": turn,
        "Memory, GiB": _memory(config, shape, machine),
        "Tokens an iteration": _tokens(config, tokens, expected),
        "Disk": _disk(config, shape, machine, expected, keep),
        "Time": _time(config, shape, machine, tokens, assumed),
    }
    return Plan(sections, _notes(config, machine, expected, keep), problems)


def _gib(size: float) -> float:
    """Bytes in GiB: two decimals, or two digits of what is less than one."""
    value = size / GIB
    return round(value, 2) if value >= 1 else float(f"{value:.2g}")


def _model(config: TapoConfig, shape: ModelShape) -> list[Figure]:
    layout = layout_of(config)
    found = [
        Figure("sizes", shape.source, "", "read"),
        Figure("parameters", shape.parameters, "", "counted from the sizes"),
    ]
    if layout.lora_rank:
        found.append(Figure("trained parameters", training.trained_parameters(shape, layout), "", "adapters"))
    return found


def _memory(config: TapoConfig, shape: ModelShape, machine: Machine) -> list[Figure]:
    found = []
    limit = capacity(machine)
    for need in device_needs(config, shape, machine):
        parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in need.parts.items() if size >= 0.005 * GIB)
        found.append(Figure(f"{need.where}, {need.moment}", _gib(need.total), "GiB", parts))
    name = f"there is, {machine.name}"
    found.append(Figure(name, None if limit is None else _gib(limit), "GiB", "of one GPU" if machine.gpu else "host"))
    cache = cache_of(config, shape, machine)
    on = "; on each GPU of an engine" if machine.gpu else ""
    basis = f"{cache.tokens} tokens of {cache.bytes_of_token / 1024:.1f} KiB{on}"
    found.append(Figure("vLLM's key-value cache", _gib(max(0.0, cache.bytes_of_engine)), "GiB", basis))
    longest = f"of sampler.max_model_len = {config.sampler.max_model_len} tokens, an engine"
    found.append(Figure("sequences in it at a time", round(cache.sequences, 1), "", longest))
    if machine.gpu is not None:
        host = host_need(config, shape, machine)
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in host.parts.items())
        known = "not checked: give --host-memory-gib" if machine.host_gib is None else f"of {machine.host_gib:.0f}"
        found.append(Figure("host, a node", _gib(host.total), "GiB", f"{parts}; {known}"))
    return found


def _tokens(config: TapoConfig, tokens: Tokens, expected: Expected) -> list[Figure]:
    most = "at most" if expected.mean_tokens is None else f"with --mean-tokens {expected.mean_tokens:g}"
    k = config.sampler.rollouts_per_query
    found = [
        Figure("rollouts", tokens.rollouts, "", f"{config.data.queries_per_iteration} queries x {k}"),
        Figure("rollout tokens", round(tokens.rollout_tokens), "tokens", most),
        Figure("constructions", tokens.constructions, "", "at most: every query eligible"),
        Figure(
            "construction tokens", round(tokens.construction_tokens), "tokens", f"{most}; at most so many constructions"
        ),
    ]
    if tokens.locating_tokens:
        found.append(Figure("tokens of error location", round(tokens.locating_tokens), "tokens", most))
    prompts = f"prompts of {expected.prompt_tokens} tokens (assumed: --prompt-tokens) included; {most}"
    scored = "of constructions: one step scores rollouts itself" if config.update.one_step else "before the first step"
    return [
        *found,
        Figure("scored tokens", round(tokens.scored_tokens), "tokens", f"{scored}; {prompts}"),
        Figure(
            "trained tokens", round(tokens.trained_tokens * config.update.epochs), "tokens", f"x update.epochs; {most}"
        ),
        Figure("tokens of one evaluation", round(tokens.evaluation_tokens), "tokens", f"held-out queries only; {most}"),
    ]


def _disk(
    config: TapoConfig, shape: ModelShape, machine: Machine, expected: Expected, keep: int | None
) -> list[Figure]:
    disk = disk_of(config, shape, expected, keep)
    every = "every version is kept" if keep is None else f"as if `tapo gc --keep {keep} --delete` ran all the time"
    row, token = measured("store_rollout"), measured("store_token")
    stored = f"measured {row.value:.0f} bytes a rollout and {token.value:g} a token ({row.command})"
    free = machine.disk_free_gib
    return [
        Figure("weights of a version", _gib(disk.weights), "GiB", f"hf folder in {config.model.dtype}"),
        Figure("weights in all", _gib(disk.weights * disk.versions), "GiB", f"{disk.versions} versions: {every}"),
        Figure(
            "DeepSpeed's state",
            _gib(disk.optimizer),
            "GiB",
            f"each of {disk.optimizers} (kept, and one being written)",
        ),
        Figure("store of the run", _gib(disk.store), "GiB", f"{disk.rollouts} rollouts; {stored}"),
        Figure("in all", _gib(disk.total), "GiB", "at the end of the run"),
        Figure("free", None if free is None else round(free, 1), "GiB", f"at run.output_dir = {config.run.output_dir}"),
    ]


def _time(config: TapoConfig, shape: ModelShape, machine: Machine, tokens: Tokens, assumed: Assumed) -> list[Figure]:
    found = duration_of(config, shape, machine, tokens, assumed)

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 1)

    total = found.total
    hours = None if total is None else round(total * config.run.iterations / 3600, 2)
    rest = f"measured ({measured('rest').note})" if found.rest is not None else "not known: store, probe, checkpoints"
    return [
        Figure("sampling", rounded(found.sampling), "s", found.basis),
        Figure("scoring and updating", rounded(found.updating), "s", found.basis),
        Figure("the rest", rounded(found.rest), "s", rest),
        Figure("an iteration", rounded(total), "s", "sum of what is known, one stage after the other"),
        Figure(
            "the run",
            hours,
            "h",
            f"{config.run.iterations} iterations; {evaluations(config)} evaluations are not in it",
        ),
    ]


def _notes(config: TapoConfig, machine: Machine, expected: Expected, keep: int | None) -> list[str]:
    notes = []
    if expected.mean_tokens is None:
        notes.append(
            "Tokens, time and store are upper bounds: every text at its longest. --mean-tokens N gives an expectation."
        )
    if keep is None and config.run.iterations > 3:
        notes.append(
            "The weights of every policy version are kept; `tapo gc --keep N --delete`, while it runs or after, deletes old ones."
        )
    if config.evaluation.datasets:
        notes.append("Benchmarks are not read, and their evaluation is in no figure.")
    if machine.gpu is not None:
        notes.append("GPU memory and time: formulas and assumptions (docs/plan.md). We have measured nothing on a GPU.")
    return notes
