"""Filter a training set before training: keep the queries that are neither too hard nor too easy for the model.

The initial model samples every training query, a chunk at a time, and each chunk is one committed stage. A run that was
interrupted goes on at the first chunk that is not in the store. What comes out, ``zpd/train.jsonl`` in the run's folder, is what
`data.train` of a training run takes.
"""

from prefect import flow

from tapo_core.config import TapoConfig
from tapo_core.stages.zpd_filter import ZpdSummary, publish_training_set
from tasks.artifacts import publish_zpd
from tasks.resources import open_run
from tasks.zpd_filter import zpd_filter


@flow(name="filter-training-set", flow_run_name="{config.run.name}")
def filter_training_set(config: TapoConfig) -> ZpdSummary:
    """Judge every training query, and publish those inside the bounds. Their accuracies are also an artifact, key ``zpd-<run>``.

    Raises:
        UserError: no query is inside the bounds.
    """
    with open_run(config, "zpd_filter") as (session, head):
        for chunk in range(1, session.n_chunks + 1):
            head = zpd_filter(session, chunk, head)["digest"]
        summary = publish_training_set(session)
        session.release_store()
        publish_zpd(session, summary)
        return summary
