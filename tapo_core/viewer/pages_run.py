"""One run: its curves, its iterations, its configuration."""

import json
from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from tapo_core.statistics import Estimate
from tapo_core.store.iteration_counts import CONFIDENCE, IterationCounts, iteration_counts
from tapo_core.store.view_pages import (
    EVALUATION_TABLES,
    METRIC_TABLES,
    RUN_TABLES,
    EvaluationRow,
    MetricPoint,
    RunFacts,
    evaluations,
    run_facts,
    update_metrics,
)
from tapo_core.viewer.charts import Chart, Drawn, Point, Series, draw
from tapo_core.viewer.render import page
from tapo_core.viewer.runs import NotThereError, Runs, RunsHere

router = APIRouter()

_N_ITERATIONS = 100  #: on one page
#: Metrics of an update that are worth a curve, in the order of the page; `training_curves` has the same.
_METRICS = {
    "loss": "Policy-gradient loss",
    "grad_norm": "Gradient norm",
    "kl/original": "KL from the policy that sampled, nats a token",
    "reference_kl/original": "KL from the initial policy, nats a token",
    "sampler_mismatch/mean": "Sampler against trainer, nats a token",
}
_WILSON = (
    f"Bands: Wilson's {CONFIDENCE:.0%} interval of the counts, as if rollouts were independent; those of one query are not, "
    "so it is rather too narrow."
)


@router.get("/run/{run}")
def one_run(request: Request, runs: RunsHere, run: str, before: int | None = None) -> HTMLResponse:
    """A run's summary, curves and iterations; `before`: the iterations before one."""
    counts = iteration_counts(runs.commits(run))
    facts = runs.remembered(run, RUN_TABLES, run_facts)
    evaluated = read_evaluations(runs, run)
    shown = [one for one in reversed(counts) if before is None or one.iteration < before]
    return page(
        request,
        "run.html",
        run=run,
        facts=facts,
        counts=counts,
        charts=run_charts(counts, evaluated, read_metrics(runs, run)),
        newest=newest_evaluation(evaluated),
        shown=shown[:_N_ITERATIONS],
        older=shown[_N_ITERATIONS - 1].iteration if len(shown) > _N_ITERATIONS else None,
        before=before,
    )


@router.get("/run/{run}/config")
def config(request: Request, runs: RunsHere, run: str) -> HTMLResponse:
    """The resolved configuration."""
    facts = runs.remembered(run, RUN_TABLES, run_facts)
    if facts is None:
        raise NotThereError(f"run {run} has committed nothing yet: its configuration comes with its first stage")
    return page(request, "config.html", run=run, facts=facts, text=config_text(facts))


def config_text(facts: RunFacts) -> str:
    """A run's configuration to be read."""
    return json.dumps(facts.config, indent=2, ensure_ascii=False)


def read_evaluations(runs: Runs, run: str) -> list[EvaluationRow]:
    """All evaluations of a run."""
    return runs.remembered(run, EVALUATION_TABLES, evaluations)


def read_metrics(runs: Runs, run: str) -> list[MetricPoint]:
    """All numbers about a run's updates."""
    return runs.remembered(run, METRIC_TABLES, update_metrics)


def newest_evaluation(evaluated: Sequence[EvaluationRow]) -> list[EvaluationRow]:
    """Every metric of every data set, of the newest policy version that was evaluated on it."""
    newest: dict[str, int] = {}
    for row in evaluated:
        newest[row.dataset] = max(row.iteration, newest.get(row.dataset, 0))
    return [row for row in evaluated if row.iteration == newest[row.dataset]]


def run_charts(
    counts: Sequence[IterationCounts], evaluated: Sequence[EvaluationRow], metrics: Sequence[MetricPoint]
) -> list[Drawn]:
    """The curves of a run that have a point."""
    datasets = dict.fromkeys(row.dataset for row in evaluated)
    passes = [row for row in evaluated if row.metric == "pass@1"]
    confidence = ", ".join(sorted({f"{row.confidence:.0%} {row.interval_method}" for row in passes}))
    charts = [
        Chart(
            "pass@1 of the policy versions",
            [
                Series(name, [Point(r.iteration, r.value, r.low, r.high) for r in passes if r.dataset == name])
                for name in datasets
            ],
            f"Intervals: {confidence}, as the evaluation stored them.",
            percent=True,
        ),
        Chart(
            "Accuracy of the training rollouts",
            [Series("accuracy", [_point(one, one.accuracy) for one in counts if one.accuracy])],
            f"Of those with a known verdict, before each update. {_WILSON}",
            percent=True,
        ),
        Chart(
            "Eligible queries and constructions that parsed",
            [
                Series("eligible queries", [_point(one, one.eligible) for one in counts if one.eligible]),
                Series("parsed constructions", [_point(one, one.parsed) for one in counts if one.parsed]),
            ],
            _WILSON,
            percent=True,
        ),
        Chart(
            "Response length, tokens",
            [
                Series(
                    "length", [Point(one.iteration, one.mean_tokens) for one in counts if one.mean_tokens is not None]
                )
            ],
            "Mean of the training rollouts.",
        ),
    ]
    charts += [
        Chart(
            title,
            [Series(title, [Point(m.iteration, m.value) for m in metrics if m.name == name])],
            "Mean over the optimizer steps.",
        )
        for name, title in _METRICS.items()
    ]
    return [drawn for chart in charts if (drawn := draw(chart)) is not None]


def _point(counts: IterationCounts, share: Estimate) -> Point:
    return Point(counts.iteration, share.value, share.low, share.high)
