"""``tapo train`` and ``tapo eval``: the flows, with progress on the terminal."""

from rich.console import Console

from tapo_core.assets import resolve_assets
from tapo_core.cli.formats import TableFormat
from tapo_core.cli.reporter import RichReporter
from tapo_core.cli.show import print_table
from tapo_core.config import TapoConfig
from tapo_core.progress import reporting
from tapo_core.session import Session
from tapo_core.stages.start import check_inputs
from tapo_core.store import query

EVALUATIONS = """
SELECT dataset, metric, value, low, high, n_queries, n_samples FROM evaluation WHERE iteration = {} ORDER BY dataset, metric
"""


def train_with_progress(config: TapoConfig, again: str) -> None:
    """Run the train flow; `again` is the command that goes on with an interrupted run."""
    console = Console(stderr=True)
    try:
        with RichReporter(console, config.run.iterations) as reporter, reporting(reporter):
            # Before Prefect starts: what a person can get wrong is told at once, and in one line.
            check_inputs(Session(config, resolve_assets(config, reporter.prepare)))
            from flows.train import train

            train(config)
    except KeyboardInterrupt:
        console.print(f"\nInterrupted. Nothing is lost; go on with: {again}", highlight=False, markup=False)
        raise
    console.print(f"{config.run_folder}: {config.run.iterations} iterations", highlight=False, markup=False)


def evaluate_with_progress(config: TapoConfig, iteration: int | None, output: TableFormat) -> None:
    """Run the evaluate flow and print what it found."""
    from flows.evaluate import evaluate_policy

    with RichReporter(Console(stderr=True), config.run.iterations) as reporter, reporting(reporter):
        evaluated = evaluate_policy(config, iteration)["iteration"]
    print_table(query(config.run_folder, EVALUATIONS.format(int(evaluated))), output)
