"""What an operator reads in the Prefect UI beside states and logs."""

import re

from prefect.artifacts import create_markdown_artifact

from tapo_core.records import Evaluation
from tapo_core.session import Session
from tapo_core.stages.zpd_filter import ZpdSummary
from tapo_core.text import markdown_table


def artifact_key(session: Session, what: str) -> str:
    """An artifact's key: lower-case letters, digits and dashes, as Prefect wants it."""
    return re.sub(r"[^a-z0-9]+", "-", f"{what}-{session.config.run.name}".lower()).strip("-")


def publish_evaluation(session: Session, iteration: int) -> None:
    """The evaluation of a policy version as a Markdown table, under one key a run, so that Prefect shows its history."""
    found = sorted(session.load(Evaluation, iteration), key=lambda row: row.again or 1)
    rows = {(row.dataset, row.metric): row for row in found}  # of several evaluations the newest
    session.release_store()
    table = markdown_table(
        ["data set", "metric", "value", "interval", "problems x samples", "temperature"],
        [
            [
                row.dataset,
                row.metric,
                row.value,
                f"{row.low:.4g} to {row.high:.4g} ({row.confidence:.0%})",
                f"{row.n_queries} x {row.n_samples}",
                row.temperature,
            ]
            for _, row in sorted(rows.items())
        ],
    )
    create_markdown_artifact(
        f"Policy version {iteration} of run {session.config.run.name}\n\n{table}",
        key=artifact_key(session, "evaluation"),
        description=f"Evaluation of policy version {iteration}",
    )


def publish_zpd(session: Session, summary: ZpdSummary) -> None:
    """The accuracies of a training set as a Markdown histogram."""
    n_known = sum(row["n_queries"] for row in summary["histogram"])
    head = (
        f"{summary['n_kept']} of {summary['n_queries']} queries have an accuracy of {summary['low']:g} to "
        f"{summary['high']:g} in {summary['samples']} samples; {summary['n_queries'] - n_known} have no known verdict."
    )
    table = markdown_table(
        ["accuracy", "queries", "kept", ""],
        [
            [
                f"{row['accuracy']:.1%}",
                row["n_queries"],
                row["n_kept"],
                "█" * round(40 * row["n_queries"] / max(1, n_known)),
            ]
            for row in summary["histogram"]
        ],
    )
    create_markdown_artifact(
        f"{head}\n\n{table}",
        key=artifact_key(session, "zpd"),
        description="Accuracy of the initial model on the training set",
    )
