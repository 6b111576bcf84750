"""The filter of a training set on the real engines: what it keeps, that it goes on where it stopped, what another run reads."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from flows.train import train
from flows.zpd_filter import filter_training_set
from tapo_core.assets import resolve_assets
from tapo_core.config import TapoConfig
from tapo_core.data import load_queries
from tapo_core.errors import ConfigError, UserError
from tapo_core.ids import file_sha256
from tapo_core.progress import reporting
from tapo_core.records import Query, Rollout, RolloutKind, RolloutTokens, SelectionDecision, Verification
from tapo_core.replay import replay
from tapo_core.store import load, verified_commits
from tapo_core.store.redact import redact_query
from tests.flows.conftest import Configure, StopAt

pytestmark = pytest.mark.usefixtures("prefect_server")

ZPD = ["zpd.samples=4", "zpd.low=0.25", "zpd.high=0.75", "data.queries_per_iteration=16"]


def tokens_of(config: TapoConfig) -> dict[tuple[str, int], tuple[list[int], list[float] | None]]:
    rollouts = {r.rollout_id: (r.query_id, r.k) for r in load(config.run_folder, Rollout)}
    rows = load(config.run_folder, RolloutTokens)
    return {rollouts[row.subject_id]: (row.token_ids_T, row.logprobs_T) for row in rows}


#: Cannot decide about one gold answer.
JUDGE = r"""
import re
def judge(query, gold, text):
    boxes = re.findall(r"boxed\{(.*?)\}", text)
    return None if gold == "an apple" else bool(boxes) and boxes[-1] == gold
"""


def test_every_query_is_judged_once_and_those_inside_are_published(
    configure: Configure, tmp_path: Path, offer_verifier: Callable[[str], None]
) -> None:
    offer_verifier(JUDGE)
    made = load_queries(resolve_assets(configure("made")).train, "train", "r")
    odd = {
        "problem": f"{made[0].text} Say it in words.",
        "answer": "an apple",
    }
    rows = [{"problem": q.text, "answer": q.gold, "family": q.family, "level": q.level} for q in made]
    given = tmp_path / "given.jsonl"
    given.write_text("".join(json.dumps(row) + "\n" for row in [*rows, odd]))
    config = configure("judged", *ZPD, f"data.train={given}", "data.instruction=Think.", "verifier.name=offered")
    summary = filter_training_set(config)
    folder = config.run_folder

    assert [(c.iteration, c.stage) for c in verified_commits(folder)] == [
        (0, "start"),
        *((i, "zpd_filter") for i in (1, 2, 3)),
    ]
    rollouts = load(folder, Rollout)
    assert len(rollouts) == 41 * 4
    assert {r.kind for r in rollouts} == {RolloutKind.EVALUATION}
    queries = {q.query_id: q for q in load(folder, Query, split="train")}
    rewards: dict[str, list[float | None]] = {query_id: [] for query_id in queries}
    asked = {r.rollout_id: r.query_id for r in rollouts}
    for verdict in load(folder, Verification):
        rewards[asked[verdict.subject_id]].append(verdict.reward)
    expected = {}
    for query_id, values in rewards.items():
        known = [value for value in values if value is not None]
        expected[query_id] = sum(known) / len(known) if known else None
    decisions = load(folder, SelectionDecision)
    assert sorted(d.subject_id for d in decisions) == sorted(queries)
    for decision in decisions:
        accuracy = expected[decision.subject_id]
        assert decision.selected == (accuracy is not None and 0.25 <= accuracy <= 0.75)
    reasons = Counter(d.reason for d in decisions)
    assert reasons["zpd_inside"] >= 5
    assert reasons["zpd_too_hard"] + reasons["zpd_too_easy"] >= 5, "the filter has to leave something out"
    (undecided,) = (d for d in decisions if queries[d.subject_id].gold == "an apple")
    assert undecided.n_unknown
    assert undecided.n_correct == 0

    published = [json.loads(line) for line in (folder / "zpd" / "train.jsonl").read_text().splitlines()]
    assert {row["id"]: row["accuracy"] for row in published} == {
        d.subject_id: expected[d.subject_id] for d in decisions if d.selected
    }
    texts = {row["problem"]: row for row in rows}
    for row in published:
        assert set(row) == {"problem", "answer", "id", "family", "level", "accuracy", "n_samples"}
        assert {key: row[key] for key in texts[row["problem"]]} == texts[row["problem"]], (
            "as it was before the instruction"
        )
    again = load_queries(folder / "zpd" / "train.jsonl", "train", "r", "Think.")
    assert {q.query_id for q in again} == {d.subject_id for d in decisions if d.selected}

    assert json.loads((folder / "zpd" / "summary.json").read_text()) == summary
    assert summary["train_sha256"] == file_sha256(folder / "zpd" / "train.jsonl")
    assert summary["reasons"] == dict(reasons)
    assert sum(row["n_kept"] for row in summary["histogram"]) == summary["n_kept"] == len(published)
    artifact = str(getattr(Artifact.get("zpd-judged"), "data", None))
    for row in summary["histogram"]:
        assert f"| {row['accuracy']:.1%} | {row['n_queries']} | {row['n_kept']} |" in artifact

    replayed = replay(folder)
    assert replayed.rows["selection_decision"] == 41
    assert replayed.differences == replayed.not_replayed[1:] == []

    with pytest.raises(ConfigError, match=r"is of the flow zpd_filter, not train; choose another run\.name"):
        train(config)

    # A query that is redacted leaves the set, also when its row is gone from the data.
    gone = published[0]
    redact_query(folder, gone["id"], "licence")
    given.write_text("".join(json.dumps(row) + "\n" for row in [*rows, odd] if row["problem"] != gone["problem"]))
    without = filter_training_set(config)
    assert without == summary | {"n_kept": summary["n_kept"] - 1, "train_sha256": without["train_sha256"]}
    assert [json.loads(line) for line in (folder / "zpd" / "train.jsonl").read_text().splitlines()] == published[1:]
    replayed = replay(folder)
    assert (replayed.differences, replayed.n_redacted) == ([], 3 * 4 + 1)


def test_an_interrupted_filter_goes_on_where_it_stopped_bit_for_bit(configure: Configure) -> None:
    whole, broken = configure("whole", *ZPD), configure("broken", *ZPD)
    filter_training_set(whole)
    with reporting(StopAt(2, "zpd_filter")), pytest.raises(KeyboardInterrupt):
        filter_training_set(broken)
    assert verified_commits(broken.run_folder)[-1].iteration == 1
    assert not (broken.run_folder / "zpd").exists(), "complete or absent"
    finish = StopAt(-1, "never")
    with reporting(finish):
        filter_training_set(broken)
    assert finish.seen == [(2, "zpd_filter"), (3, "zpd_filter")]
    assert tokens_of(broken) == tokens_of(whole)
    files = [config.run_folder / "zpd" / "train.jsonl" for config in (whole, broken)]
    assert files[0].read_bytes() == files[1].read_bytes()

    files[1].unlink()
    filter_training_set(broken)
    assert files[0].read_bytes() == files[1].read_bytes(), "the file is a view of the store"


def test_nothing_inside_the_zone_is_an_error_that_says_so(configure: Configure) -> None:
    settings = ["zpd.samples=1", "zpd.low=0.4", "zpd.high=0.6", "data.queries_per_iteration=40"]
    config = configure("nothing", *settings)
    with pytest.raises(
        UserError, match=r"none of 40 queries has an accuracy of 0\.4 to 0\.6 \(zpd_too_.* wider bounds"
    ):
        filter_training_set(config)
    assert not (config.run_folder / "zpd").exists()
