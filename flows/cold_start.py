"""Cold start: teach a model to construct, on examples that it wrote itself, before it is trained with TAPO.

For each chunk of training queries, with the initial model throughout:

    1. sample                  K rollouts of every query                                  vLLM
    2. verify
    3. locate_error            first error of the wrong rollouts of eligible queries
    4. diagnose_and_correct    the model rewrites them                                    vLLM

and then once:

    5. build_cold_start_data   correct rollouts (SFT), correct constructions (IFT)
    6. supervised_fine_tuning  policy version 1, a checkpoint that model.path takes       OpenRLHF

A run that was interrupted goes on at the first stage that is not in the store. (Paper: 30k SFT + 15k IFT examples.)
"""

from typing import TypedDict

from prefect import flow

from tapo_core.config import TapoConfig
from tapo_core.stages.build_cold_start_data import publish_examples
from tapo_core.stages.supervised_fine_tuning import checkpoint_folder
from tasks.build_cold_start_data import build_cold_start_data
from tasks.diagnose_and_correct import diagnose_and_correct
from tasks.evaluate import evaluate
from tasks.locate_error import locate_error
from tasks.resources import open_run
from tasks.sample import sample
from tasks.supervised_fine_tuning import supervised_fine_tuning
from tasks.verify import verify

VERSION = 1  #: of the policy that comes out


class ColdStartResult(TypedDict):
    """What a cold start made."""

    run_id: str
    checkpoint: str  #: Hugging Face folder
    examples: str  #: JSONL file
    n_sft: int
    n_ift: int
    digest: str  #: chain digest of the fine-tuning


@flow(name="cold-start", flow_run_name="{config.run.name}")
def cold_start(config: TapoConfig) -> ColdStartResult:
    """Sample, construct, choose, fine-tune; the policy is evaluated before and after.

    Raises:
        UserError: there is no example of a kind that is wanted, or the input cannot be used.
    """
    with open_run(config, "cold_start") as (session, head):
        evaluate(session, 0, head)
        for chunk in range(1, session.n_chunks + 1):
            for stage in (sample, verify, locate_error, diagnose_and_correct):
                head = stage(session, chunk, head)["digest"]
        built = build_cold_start_data(session, VERSION, head)
        examples = publish_examples(session, VERSION)
        session.release_store()
        tuned = supervised_fine_tuning(session, VERSION, built["digest"])
        evaluate(session, VERSION, tuned["digest"])
        return ColdStartResult(
            run_id=session.run_id,
            checkpoint=str(checkpoint_folder(session.folder, VERSION)),
            examples=str(examples),
            n_sft=built["manifest"]["n_sft"],
            n_ift=built["manifest"]["n_ift"],
            digest=tuned["digest"],
        )
