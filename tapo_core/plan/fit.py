"""What does not fit, and which keys would make it fit: every value that is proposed was planned again, and fits."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tapo_core.config import TapoConfig
from tapo_core.plan.layout import layout_of
from tapo_core.plan.machine import GIB, Machine
from tapo_core.plan.memory import cache_of, capacity, device_needs, host_need, vllm_fixed
from tapo_core.plan.shape import ModelShape
from tapo_core.plan.volume import Disk

#: A change of one key: name, value.
Change = tuple[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not fit, in one line, and the keys that it is about."""

    text: str
    keys: tuple[str, ...]


def changed(config: TapoConfig, *changes: Change) -> TapoConfig:
    """A configuration with some keys set. The values are not checked against each other."""
    for key, value in changes:
        section, name = key.split(".")
        part = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: part})
    return config


def layout_problems(config: TapoConfig, shape: ModelShape, machine: Machine) -> list[Problem]:
    """Combinations that no amount of memory helps."""
    layout, found = layout_of(config), []
    if machine.gpu is not None and layout.gpus > machine.gpus:
        placed = "shared" if layout.colocated else "apart"
        found.append(
            Problem(
                f"{layout.gpus} GPUs are needed, {machine.gpus} are there: {layout.replicas} x {layout.tensor_parallel} for "
                f"sampling and {layout.ranks} for training, {placed}: fewer cluster.sampler_replicas or cluster.trainer_ranks, "
                "or --gpus if there are more",
                ("cluster.sampler_replicas", "cluster.trainer_ranks"),
            )
        )
    if shape.heads % layout.tensor_parallel:
        found.append(
            Problem(
                f"sampler.tensor_parallel_size = {layout.tensor_parallel} does not divide the model's {shape.heads} heads: "
                f"{math.gcd(shape.heads, layout.tensor_parallel)} would",
                ("sampler.tensor_parallel_size",),
            )
        )
    if layout.longest > shape.positions:
        found.append(
            Problem(
                f"sampler.max_model_len = {layout.longest} is more than the model's {shape.positions} positions: "
                f"{shape.positions} would fit",
                ("sampler.max_model_len",),
            )
        )
    return found


def memory_problems(config: TapoConfig, shape: ModelShape, machine: Machine) -> list[Problem]:
    """Moments at which the memory does not suffice, without advice."""
    found = []
    limit = capacity(machine)
    for need in device_needs(config, shape, machine):
        if limit is not None and need.total > limit:
            parts = sorted(((size, name) for name, size in need.parts.items()), reverse=True)
            most = ", ".join(f"{name} {size / GIB:.1f}" for size, name in parts[:4])
            found.append(
                Problem(
                    f"{need.moment} needs {need.total / GIB:.1f} GiB of a {need.where}'s {limit / GIB:.1f} ({most})", ()
                )
            )
    cache = cache_of(config, shape, machine)
    if cache.sequences < 1:
        key = "sampler.kv_cache_gib" if machine.gpu is None else "sampler.gpu_memory_utilization"
        found.append(
            Problem(
                f"{key} leaves vLLM a cache of {max(0.0, cache.bytes_of_engine) / GIB:.1f} GiB, and one sequence of "
                f"sampler.max_model_len = {config.sampler.max_model_len} needs "
                f"{cache.bytes_of_token * config.sampler.max_model_len / GIB:.1f}",
                (key,),
            )
        )
    if machine.gpu is not None and machine.host_gib is not None:
        host = host_need(config, shape, machine)
        if host.total > machine.host_gib * GIB:
            most = ", ".join(f"{name} {size / GIB:.0f}" for name, size in host.parts.items())
            found.append(
                Problem(f"a node's host needs {host.total / GIB:.0f} GiB of {machine.host_gib:.0f} ({most})", ())
            )
    return found


def advised(config: TapoConfig, shape: ModelShape, machine: Machine) -> list[Problem]:
    """The memory problems, each with the changes that would solve all of them."""
    problems = memory_problems(config, shape, machine)
    if not problems:
        return []

    def fits(trial: TapoConfig) -> bool:
        return not memory_problems(trial, shape, machine) and not layout_problems(trial, shape, machine)

    single = list(_first_fitting(config, shape, machine, fits))
    if single:
        advice, keys = " or ".join(_told(change) for change in single[:4]), tuple(key for key, _ in single)
        advice = f"would fit: {advice}"
    else:
        together = _together(config, shape, machine, fits)
        keys = tuple(key for key, _ in together)
        advice = f"would fit together: {', '.join(_told(change) for change in together)}"
        if not together:
            advice = (
                "no change of update.*, sampler.gpu_memory_utilization and cluster.* that is known to the planner fits: more or "
                "larger GPUs, or a smaller model.path"
            )
            keys = ("model.path",)
    return [Problem(f"{problem.text}; {advice}", keys) for problem in problems]


def _told(change: Change) -> str:
    return f"{change[0]} = {json.dumps(change[1])}"


def _candidates(config: TapoConfig, shape: ModelShape, machine: Machine) -> Iterator[list[Change]]:
    """For each key its other values, the least change first."""
    layout = layout_of(config)
    if machine.gpu is None:
        one = math.ceil(10 * shape.kv_bytes(layout.dtype_bytes) * layout.longest / GIB) / 10
        yield [("sampler.kv_cache_gib", one)]
    else:
        least = vllm_fixed(config, shape) + shape.kv_bytes(layout.dtype_bytes, layout.tensor_parallel) * layout.longest
        lowest = math.ceil(100 * least / (machine.gpu.memory_gib * GIB))
        now = round(100 * config.sampler.gpu_memory_utilization)
        lower = range(now - 5, lowest - 1, -5)
        yield [("sampler.gpu_memory_utilization", percent / 100) for percent in [*lower, *range(now + 5, 96, 5)]]
    if not layout.checkpointing:
        yield [("update.gradient_checkpointing", True)]
    yield [("update.micro_batch_tokens", n) for n in _halves(config.update.micro_batch_tokens, layout.longest)]
    yield [("update.score_chunk_tokens", n) for n in _halves(config.update.score_chunk_tokens, 128)]
    if not layout.sleep and layout.colocated:
        yield [("cluster.sleep", True)]
    if layout.ranks > 1:
        yield [("update.zero_stage", stage) for stage in range(layout.zero_stage + 1, 4)]
    if layout.ray and machine.gpu is not None:
        free = machine.gpus - (0 if layout.colocated else layout.replicas * layout.tensor_parallel)
        yield [("cluster.trainer_ranks", n) for n in range(layout.ranks + 1, free + 1)]
    if machine.gpu is not None and layout.zero_stage >= 1 and not layout.offload:
        yield [("update.offload", "optimizer")]


def _halves(value: int, least: int) -> list[int]:
    found = []
    while value // 2 >= least:
        value //= 2
        found.append(value)
    return found


def _first_fitting(
    config: TapoConfig, shape: ModelShape, machine: Machine, fits: Callable[[TapoConfig], bool]
) -> Iterator[Change]:
    """Of each key the first value that is enough by itself."""
    for values in _candidates(config, shape, machine):
        change = next((change for change in values if fits(changed(config, change))), None)
        if change is not None:
            yield change


def _together(
    config: TapoConfig, shape: ModelShape, machine: Machine, fits: Callable[[TapoConfig], bool]
) -> list[Change]:
    """Changes that are enough together: keys are set to their last value, one after the other, until one value of the next is
    enough. [] if all of them are not.
    """
    taken: list[Change] = []
    preferred = ("gradient_checkpointing", "sleep", "zero_stage", "trainer_ranks", "offload", "micro_batch_tokens")
    for _ in range(len(preferred) + 1):
        trial = changed(config, *taken)
        found = next(_first_fitting(trial, shape, machine, fits), None)
        if found is not None:
            needed = [*taken, found]
            for change in taken:
                fewer = [other for other in needed if other is not change]
                if fits(changed(config, *fewer)):
                    needed = fewer
            return needed
        by_name = {values[-1][0].split(".")[1]: values[-1] for values in _candidates(trial, shape, machine) if values}
        if machine.gpu is not None and layout_of(trial).zero_stage == 0 and "zero_stage" not in by_name:
            by_name["zero_stage"] = ("update.zero_stage", 1)  # offload needs one
        held = {key for key, _ in taken}
        best = next((by_name[name] for name in preferred if name in by_name and by_name[name][0] not in held), None)
        if best is None:
            return []
        taken.append(best)
    return []


def disk_problems(config: TapoConfig, disk: Disk, machine: Machine) -> list[Problem]:
    """Whether checkpoints and store fit where run.output_dir is."""
    if machine.disk_free_gib is None or disk.total <= machine.disk_free_gib * GIB:
        return []
    room = machine.disk_free_gib * GIB - disk.optimizer * disk.optimizers - disk.store
    fitting = max(0, math.floor(room / disk.weights))
    advice = ["run.output_dir on a larger disk"]
    if fitting >= 3:
        advice.append(
            f"`tapo gc --keep {fitting - 2} --delete` while it runs (--keep-checkpoints {fitting - 2} plans with it)"
        )
    if config.update.keep_optimizer_states > 1:
        advice.append("update.keep_optimizer_states = 1")
    return [
        Problem(
            f"run.output_dir has {machine.disk_free_gib:.0f} GiB free, and the run needs {disk.total / GIB:.0f} "
            f"({disk.versions} x {disk.weights / GIB:.2f} of weights, {disk.optimizers} x {disk.optimizer / GIB:.2f} of "
            f"optimizer, store {disk.store / GIB:.1f}): {', or '.join(advice)}",
            ("run.output_dir", "run.iterations", "update.keep_optimizer_states"),
        )
    ]
