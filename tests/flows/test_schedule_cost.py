"""What a flow run costs Prefect does not depend on how long the run was before it."""

from collections import Counter

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.runtime import flow_run

from flows.train import train
from tapo_core.config import TapoConfig
from tapo_core.store import ledger
from tests.flows.conftest import Configure

pytestmark = pytest.mark.usefixtures("prefect_server")


@flow
def tick(config: TapoConfig) -> str:
    """As `train_run` does: the flow is plain code in the flow run of the form."""
    train.fn(config)
    found: str = flow_run.id
    return found


def task_runs(flow_run_id: str) -> Counter[str]:
    wanted = FlowRunFilter.model_validate({"id": {"any_": [flow_run_id]}})
    with get_client(sync_client=True) as client:
        return Counter(run.name.split()[0] for run in client.read_task_runs(flow_run_filter=wanted))


def test_the_next_iteration_costs_what_the_one_before_did(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    original = ledger.read_ledger

    def read_ledger(*args: object) -> object:
        read.append(args)
        return original(*args)  # type: ignore[arg-type]

    costs, reads = [], []
    for iterations in (1, 2, 3):
        read.clear()
        with monkeypatch.context() as patch:
            patch.setattr("tapo_core.session.read_ledger", read_ledger)
            flow_run_id = tick(configure("ticks", 'method="grpo"', f"run.iterations={iterations}"))
        costs.append(task_runs(flow_run_id))
        reads.append(len(read))
    each = Counter(["sample", "verify", "filter_by_difficulty", "update_policy", "evaluate"])
    assert costs[0] == each + Counter(["evaluate", "report"])
    # The report before is looked for once more: its flow run may have been killed when it had only that to do.
    assert costs[1:] == [each + Counter(["report", "report"])] * 2
    assert reads == [1, 1, 1]
