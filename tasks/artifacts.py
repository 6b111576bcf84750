"""What an operator reads in the Prefect UI beside states and logs."""

import re

from prefect.artifacts import create_markdown_artifact

from tapo_core.records import Evaluation
from tapo_core.session import Session


def artifact_key(session: Session, what: str) -> str:
    """An artifact's key: lower-case letters, digits and dashes, as Prefect wants it."""
    return re.sub(r"[^a-z0-9]+", "-", f"{what}-{session.config.run.name}".lower()).strip("-")


def publish_evaluation(session: Session, iteration: int) -> None:
    """The evaluation of a policy version as a Markdown table, under one key a run, so that Prefect shows its history."""
    rows = session.load(Evaluation, iteration)
    session.release_store()
    lines = [
        f"Policy version {iteration} of run {session.config.run.name}",
        "",
        "| data set | metric | value | interval | problems x samples |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: (r.dataset, r.metric)):
        interval = f"{row.low:.4g} to {row.high:.4g} ({row.confidence:.0%})"
        lines.append(
            f"| {row.dataset} | {row.metric} | {row.value:.4g} | {interval} | {row.n_queries} x {row.n_samples} |"
        )
    create_markdown_artifact(
        "\n".join(lines),
        key=artifact_key(session, "evaluation"),
        description=f"Evaluation of policy version {iteration}",
    )
