"""The figures of a study: training curves of variants against each other, as SVG that is the same for the same record."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from tapo_core.files import publish_text
from tapo_core.study.config import StudyConfig
from tapo_core.study.measure import CURVES
from tapo_core.study.record import Record

if TYPE_CHECKING:
    import pandas

_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")
_N_COLUMNS = 3


def draw_figures(study: StudyConfig, record: Record, folder: Path) -> list[tuple[str, Path]]:
    """``study-<name>-<family>-<policy>.svg`` for each family and policy with a run to draw; what each shows, and its file."""
    made = []
    for family, family_choice in study.families.items():
        for policy, policy_choice in study.policies.items():
            runs = record.runs[(record.runs.family == family) & (record.runs.policy == policy)]
            runs = runs[runs.variant.isin(study.study.curves)]
            if not runs.empty:
                file = folder / f"study-{study.study.name}-{family}-{policy}.svg"
                publish_text(file, _drawn(study, record.curves.merge(runs[["run", "variant"]], on="run")))
                made.append((f"{family_choice.title or family}, {policy_choice.title or policy}", file))
    return made


def _drawn(study: StudyConfig, curves: "pandas.DataFrame") -> list[str]:
    """The lines of an SVG with a panel for each curve: mean over seeds, and from the least to the largest."""
    import matplotlib
    from matplotlib.figure import Figure

    # Names of elements are drawn from a salt, and the date would be that of the drawing: neither may differ.
    with matplotlib.rc_context({"svg.hashsalt": study.study.name, "svg.fonttype": "none"}):
        figure = Figure(figsize=(11, 6), layout="constrained")
        panels = figure.subplots(-(-len(CURVES) // _N_COLUMNS), _N_COLUMNS, squeeze=False).flat
        for axes, (name, title) in zip(panels, CURVES.items(), strict=True):
            for colour, variant in zip(_COLOURS, study.study.curves, strict=False):
                known = curves[(curves.variant == variant) & curves[name].notna()]
                if known.empty:
                    continue
                steps = known.groupby("iteration")[name].agg(["mean", "min", "max"])
                axes.plot(steps.index, steps["mean"], color=colour, label=study.title("variants", variant))
                axes.fill_between(steps.index, steps["min"], steps["max"], color=colour, alpha=0.2, linewidth=0)
            axes.set(xlabel="iteration", title=title)
            axes.grid(alpha=0.3)
        handles = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles))
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return drawn.getvalue().splitlines()
