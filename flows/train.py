"""Train a policy with TAPO (or GRPO): many iterations in one flow run, six stages an iteration.

    1. sample                 K rollouts of every query from the current policy        vLLM
    2. verify                 correct, wrong, no answer, or unknown
    3. locate_error           first error of the wrong rollouts of eligible queries
    4. diagnose_and_correct   the policy rewrites them, guided by a correct sibling    vLLM
    5. filter_by_difficulty   who enters the batch, and why
    6. update_policy          DAE, OTS, one optimizer step, a new policy version       OpenRLHF

Every stage reads its inputs from the store and writes what it made in one transaction. A run that was interrupted goes on at
the first stage that is not in the store.
"""

from typing import TypedDict

from prefect import flow

from tapo_core.config import TapoConfig
from tapo_core.session import Session
from tapo_core.tracking import write_tensorboard
from tasks.diagnose_and_correct import diagnose_and_correct
from tasks.evaluate import evaluate
from tasks.filter_by_difficulty import filter_by_difficulty
from tasks.locate_error import locate_error
from tasks.options import StageResult, made_before
from tasks.report import report
from tasks.resources import open_run
from tasks.sample import sample
from tasks.update_policy import update_policy
from tasks.verify import verify


class TrainResult(TypedDict):
    """Where a training run ended."""

    run_id: str
    folder: str
    iterations: int
    digest: str  #: chain digest of the last update


def run_iteration(session: Session, iteration: int, head: str) -> StageResult:
    """One iteration: six stages, each built on the one before."""
    head = sample(session, iteration, head)["digest"]
    head = verify(session, iteration, head)["digest"]
    if session.config.method == "tapo":
        head = locate_error(session, iteration, head)["digest"]
        head = diagnose_and_correct(session, iteration, head)["digest"]
    head = filter_by_difficulty(session, iteration, head)["digest"]
    return update_policy(session, iteration, head)


def finish_iteration(session: Session, iteration: int, head: str) -> None:
    """Tell those who watch, unless an earlier flow run went further and so has told them. `head`: the digest of the iteration's
    last update.
    """
    if made_before(session, "sample", iteration + 1) is not None:
        return
    if session.config.tracking.tensorboard:
        write_tensorboard(session.folder, iteration)
    if iteration > 0:
        report(session, iteration, head)
        session.reporter.iteration(session.folder, iteration)


@flow(name="train", flow_run_name="{config.run.name}")
def train(config: TapoConfig) -> TrainResult:
    """Train a run until it has config.run.iterations iterations, from wherever it stands."""
    with open_run(config) as (session, head):
        evaluate(session, 0, head)
        finish_iteration(session, 0, head)
        for iteration in range(1, config.run.iterations + 1):
            head = run_iteration(session, iteration, head)["digest"]
            every = config.evaluation.every
            if iteration == config.run.iterations or (every and iteration % every == 0):
                evaluate(session, iteration, head)
            finish_iteration(session, iteration, head)
        return TrainResult(
            run_id=session.run_id, folder=str(session.folder), iterations=config.run.iterations, digest=head
        )
