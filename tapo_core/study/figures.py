"""The figures of a study: training curves of variants against each other, as SVG that is the same for the same record."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from tapo_core.files import publish_text
from tapo_core.study.config import Cell, StudyConfig
from tapo_core.study.record import CURVES, Record, Row

_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")
_N_COLUMNS = 3


def figure_name(study: StudyConfig, cell: Cell) -> str:
    """The file of a family's and policy's figure."""
    return f"study-{study.study.name}-{'-'.join(cell)}.svg"


def drawn_cells(study: StudyConfig, record: Record) -> list[Cell]:
    """The families and policies with a run to draw."""
    known = {(row["family"], row["policy"]) for row in record.runs if row["variant"] in study.study.curves}
    return [cell for cell in study.cells if cell in known]


def draw_figures(study: StudyConfig, record: Record, folder: Path) -> None:
    """A figure for each of `drawn_cells`."""
    for cell in drawn_cells(study, record):
        variants = {row["run"]: row["variant"] for row in record.runs if (row["family"], row["policy"]) == cell}
        curves: dict[str, list[Row]] = {}
        for row in record.only(variants).curves:
            curves.setdefault(variants[row["run"]], []).append(row)
        publish_text(folder / figure_name(study, cell), _drawn(study, curves))


def _over_seeds(rows: Sequence[Row], name: str) -> list[tuple[int, float, float, float]]:
    """Iteration, mean, least and largest value of a curve, where a run has one."""
    values: dict[int, list[float]] = {}
    for row in rows:
        if row[name] is not None:
            values.setdefault(row["iteration"], []).append(row[name])
    return [(iteration, fmean(found), min(found), max(found)) for iteration, found in sorted(values.items())]


def _drawn(study: StudyConfig, curves: Mapping[str, Sequence[Row]]) -> list[str]:
    """The lines of an SVG with a panel for each curve: mean over seeds, and from the least to the largest."""
    import matplotlib
    from matplotlib.figure import Figure

    # Names of elements are drawn from a salt, and the date would be that of the drawing: neither may differ.
    with matplotlib.rc_context({"svg.hashsalt": study.study.name, "svg.fonttype": "none"}):
        figure = Figure(figsize=(11, 6), layout="constrained")
        panels = figure.subplots(-(-len(CURVES) // _N_COLUMNS), _N_COLUMNS, squeeze=False).flat
        for axes, (name, title) in zip(panels, CURVES.items(), strict=True):
            for colour, variant in zip(_COLOURS, study.study.curves, strict=False):
                found = _over_seeds(curves.get(variant, ()), name)
                if found:
                    steps, means, least, largest = zip(*found, strict=True)
                    axes.plot(steps, means, color=colour, label=study.title("variants", variant))
                    axes.fill_between(steps, least, largest, color=colour, alpha=0.2, linewidth=0)
            axes.set(xlabel="iteration", title=title)
            axes.grid(alpha=0.3)
        handles = {
            label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles))
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return drawn.getvalue().splitlines()
