"""``tapo plan``: what a run will need, and whether it fits. Starts and writes nothing."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapo_core.cli.formats import TableFormat
from tapo_core.errors import UserError
from tapo_core.plan.machine import GIB, GPUS, Gpu, Machine

if TYPE_CHECKING:
    from tapo_core.config import TapoConfig
    from tapo_core.plan.report import Plan


def plan(
    config_file: Annotated[Path, typer.Argument(help="TOML file, for example configs/nano_tapo.toml")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: --set section.key=value (may be repeated)")
    ] = None,
    gpu: Annotated[str | None, typer.Option(help=f"Kind of GPU: {', '.join(GPUS)}")] = None,
    gpu_memory_gib: Annotated[
        float | None, typer.Option(min=0.1, help="Memory of one GPU, instead of or in place of the table's")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs there are; those that it uses when left out")] = None,
    gpus_per_node: Annotated[int, typer.Option(min=1)] = 8,
    host_memory_gib: Annotated[
        float | None, typer.Option(min=0.1, help="Memory of a node; this machine's without a GPU, else not checked")
    ] = None,
    disk_gib: Annotated[
        float | None, typer.Option(min=0.0, help="Free disk for the run; what is free at run.output_dir when left out")
    ] = None,
    mean_tokens: Annotated[float | None, typer.Option(min=1.0, help="Expected mean length of a rollout")] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Mean length of a query's prompt (assumed)")] = 200,
    mfu: Annotated[float, typer.Option(min=0.001, max=1.0, help="Share of the peak while updating (assumed)")] = 0.3,
    sampling_mfu: Annotated[float, typer.Option(min=0.001, max=1.0, help="... while sampling (assumed)")] = 0.1,
    keep_checkpoints: Annotated[
        int | None, typer.Option(min=1, help="Plan as if `tapo gc --keep N --delete` ran after each iteration")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object")] = False,
) -> None:
    """Say what a run needs: memory, tokens, disk, time. Exit code 1 if something does not fit. Starts and writes nothing."""
    from tapo_core.config_file import load_config
    from tapo_core.plan.duration import Assumed
    from tapo_core.plan.report import make_plan
    from tapo_core.plan.volume import Expected

    config = load_config(config_file, overrides or [])
    machine = _machine(config, gpu, gpu_memory_gib, gpus, gpus_per_node, host_memory_gib, disk_gib)
    made = make_plan(
        config, machine, Expected(mean_tokens, prompt_tokens), Assumed(mfu, sampling_mfu), keep_checkpoints
    )
    if as_json:
        typer.echo(json.dumps({"fits": not made.problems, **asdict(made)}))
    else:
        _print(made)
    if made.problems:
        raise typer.Exit(1)


def _print(made: "Plan") -> None:
    import pandas

    from tapo_core.cli.show import print_table

    for title, figures in made.sections.items():
        typer.echo(f"{title}")
        rows = [
            {"": figure.what, "value": _shown(figure.value), "unit": figure.unit, "how": figure.basis}
            for figure in figures
        ]
        print_table(pandas.DataFrame(rows), TableFormat.TABLE)
        typer.echo()
    for note in made.notes:
        typer.echo(note)
    for problem in made.problems:
        typer.echo(f"does not fit: {problem.text}")
    if not made.problems:
        typer.echo("It fits.")


def _shown(value: float | int | str | None) -> str:
    if value is None:
        return "not known"
    return f"{value:,}" if isinstance(value, int | float) else value


def _machine(
    config: "TapoConfig",
    gpu: str | None,
    gpu_memory_gib: float | None,
    gpus: int | None,
    gpus_per_node: int,
    host_gib: float | None,
    disk_gib: float | None,
) -> Machine:
    """The machine that was named, or this one."""
    from tapo_core.plan.layout import layout_of

    kind = None
    name = "this machine"
    if gpu is not None:
        if gpu not in GPUS:
            raise UserError(f"--gpu {gpu}: not in the table ({', '.join(GPUS)}); --gpu-memory-gib takes any size")
        kind, name = GPUS[gpu], gpu
    if gpu_memory_gib is not None:
        kind = Gpu(gpu_memory_gib, kind.bf16_tflops if kind else None)
        name = gpu or "a GPU of that size"
    if kind is None:
        if gpus is not None:
            raise UserError("--gpus: say which, with --gpu NAME or --gpu-memory-gib GIB")
        kind = _gpu_here()
    if kind is None and host_gib is None:
        import psutil

        host_gib = psutil.virtual_memory().total / GIB
    count = 0 if kind is None else gpus or layout_of(config).gpus
    free = _free(config.run.output_dir) if disk_gib is None else disk_gib
    return Machine(name, kind, count, gpus_per_node, host_gib, free)


def _gpu_here() -> Gpu | None:
    """The GPU of this machine, if torch sees one. Its peak is not known."""
    from tapo_core.engines.environment import has_gpu

    if not has_gpu():
        return None
    import torch

    return Gpu(torch.cuda.get_device_properties(0).total_memory / GIB, None)


def _free(folder: Path) -> float:
    """GiB free where a folder is, or will be made."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free / GIB
