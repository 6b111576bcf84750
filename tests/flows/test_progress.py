"""A long stage shows its progress in the Prefect UI; a short one does not."""

from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.runtime import flow_run

from tasks.progress import ArtifactReporter


@task
def stages(seconds: float) -> None:
    reporter = ArtifactReporter(seconds)
    for stage in ("sample", "diagnose_and_correct"):
        reporter.stage(1, stage)
        for done in range(1, 5):
            reporter.advance(done, 4, "sequences")
        reporter.advance(5, 8, "sequences")


@flow
def work(seconds: float) -> str:
    stages(seconds)
    return str(flow_run.id)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(("seconds", "shown"), [(0.0, 2), (1e6, 0)])
def test_each_long_stage_has_one_progress_artifact(seconds: float, shown: int) -> None:
    wanted: Any = ArtifactFilterFlowRunId.model_validate({"any_": [work(seconds)]})
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=wanted))
    assert [artifact.type for artifact in found] == ["progress"] * shown
    assert {(artifact.data, artifact.description) for artifact in found} <= {(62.5, "5 of 8 sequences")}
