"""The cold start on the real engines: its examples, its resumption, and training from what it made."""

import json

import pytest

from flows.cold_start import cold_start
from flows.evaluate import evaluate_policy
from flows.train import train
from flows.zpd_filter import filter_training_set
from tapo_core.assets import resolve_assets
from tapo_core.chat import Chat
from tapo_core.config import TapoConfig
from tapo_core.errors import ConfigError, UserError
from tapo_core.ids import digest, file_sha256
from tapo_core.progress import reporting
from tapo_core.records import (
    ColdStartExample,
    ColdStartKind,
    Correction,
    FinishReason,
    ParseOutcome,
    PolicyVersion,
    Rollout,
    RolloutTokens,
    TokenRole,
    UpdateMetric,
    Verification,
    VerificationOutcome,
)
from tapo_core.replay import replay
from tapo_core.store import lineage, load, query, verified_commits
from tapo_core.store.redact import redact_query
from tests.flows.conftest import Configure, StopAt

pytestmark = pytest.mark.usefixtures("prefect_server")

SMALL = [
    "evaluation.queries=3",
    "evaluation.samples=1",
    "cold_start.chunks=2",
    "cold_start.sft_per_query=2",
    "cold_start.n_sft=9",
    "sft.learning_rate=1e-3",
    "sft.epochs=3",
    "sft.batch_size=8",
    "sft.warmup_steps=2",
    "sft.micro_batch_tokens=512",
]
CHUNK = ["sample", "verify", "locate_error", "diagnose_and_correct"]


def made_by(config: TapoConfig) -> tuple[object, ...]:
    """What must not differ between two cold starts of the same configuration, without the ids that name the run."""
    folder = config.run_folder
    tokens = load(folder, RolloutTokens)
    examples = sorted((e.kind, e.content_sha256, e.n_tokens) for e in load(folder, ColdStartExample))
    metrics = {(m.optimizer_step, m.name): m.value for m in load(folder, UpdateMetric)}
    rows = [json.loads(line) for line in (folder / "cold_start" / "examples.jsonl").read_text().splitlines()]
    return (
        sorted((t.role, t.prompt_token_ids, t.token_ids_T, t.logprobs_T) for t in tokens if t.logprobs_T is not None),
        examples,
        metrics,
        [(row["kind"], row["query_id"], row["messages"], row["completion"]) for row in rows],
        file_sha256(folder / "policies" / "000001" / "hf" / "model.safetensors"),
    )


def check_examples(config: TapoConfig) -> None:
    """Every example is what it says, by the rows that it names; and its export says the same."""
    folder = config.run_folder
    rollouts = {r.rollout_id: r for r in load(folder, Rollout)}
    corrections = {c.correction_id: c for c in load(folder, Correction)}
    verdicts = {v.subject_id: v.outcome for v in load(folder, Verification)}
    tokens = {(t.subject_id, t.role): t for t in load(folder, RolloutTokens)}
    examples = load(folder, ColdStartExample)
    chat = Chat(resolve_assets(config).model, {})
    exported = {
        row["id"]: row for row in map(json.loads, (folder / "cold_start" / "examples.jsonl").read_text().splitlines())
    }
    assert sorted(exported) == sorted(e.example_id for e in examples)
    asked: list[str] = []
    for example in examples:
        assert verdicts[example.subject_id] is VerificationOutcome.CORRECT
        if example.kind is ColdStartKind.SFT:
            rollout = rollouts[example.subject_id]
            assert (rollout.kind, rollout.finish_reason) == ("training", FinishReason.STOP)
            assert rollout.query_id == example.query_id
            role, text = TokenRole.ROLLOUT, rollout.text
            asked.append(rollout.query_id)
        else:
            correction = corrections[example.subject_id]
            assert correction.parse_outcome is ParseOutcome.PARSED
            role, text = TokenRole.CORRECTION, correction.raw_output
            assert "<analysis>" in text
        row = tokens[example.subject_id, role]
        assert row.token_ids_T[-1] == chat.stops.end, "an example teaches to end"
        assert example.n_tokens == len(row.token_ids_T)
        content = {"prompt_token_ids": row.prompt_token_ids, "token_ids": row.token_ids_T}
        assert example.content_sha256 == digest(content)
        out = exported[example.example_id]
        assert (out["kind"], out["subject_id"], out["completion"]) == (example.kind, example.subject_id, text)
        ((role_said, message),) = ((m["role"], m["content"]) for m in out["messages"])
        assert role_said == "user"
        assert chat.prompt(message) == row.prompt_token_ids, "the message is the one that the model was sent"
    assert len(asked) == 9, "cold_start.n_sft"
    assert max(asked.count(query_id) for query_id in asked) <= 2, "cold_start.sft_per_query"
    assert len({e.content_sha256 for e in examples if e.kind is ColdStartKind.SFT}) == 9, "different rollouts"


def test_a_cold_start_end_to_end_then_training_from_it(configure: Configure) -> None:
    config = configure("taught", *SMALL)
    result = cold_start(config)
    folder = config.run_folder
    assert [(c.iteration, c.stage) for c in verified_commits(folder)] == [
        (0, "start"),
        (0, "evaluate"),
        *((1, stage) for stage in CHUNK),
        *((2, stage) for stage in CHUNK),
        (1, "build_cold_start_data"),
        (1, "supervised_fine_tuning"),
        (1, "evaluate"),
    ]
    versions = {v.iteration: v for v in load(folder, PolicyVersion)}
    assert sorted(versions) == [0, 1]
    assert versions[1].parent_policy_version_id == versions[0].policy_version_id
    assert versions[1].checkpoint_digest != versions[0].checkpoint_digest
    sampled = load(folder, Rollout, kind="training")
    assert {r.policy_version_id for r in sampled} == {versions[0].policy_version_id}, "always the initial model"
    assert {c.policy_version_id for c in load(folder, Correction)} == {versions[0].policy_version_id}
    asked = {chunk: sorted({r.query_id for r in sampled if r.iteration == chunk}) for chunk in (1, 2)}
    train_ids = sorted(query(folder, "SELECT query_id FROM query WHERE split = 'train'").query_id.astype(str))
    assert asked[1] + asked[2] == train_ids[:24]
    check_examples(config)
    assert result["n_sft"] == 9
    assert result["n_ift"] > 0
    metrics = {(m.optimizer_step, m.name): m.value for m in load(folder, UpdateMetric)}
    n_steps = versions[1].optimizer_steps
    assert n_steps == 3 * -(-(9 + result["n_ift"]) // 8)
    assert metrics[n_steps - 1, "sft/loss"] < metrics[0, "sft/loss"]
    assert all(metrics[step, "sft/grad_norm"] > 0 for step in range(n_steps))
    example = load(folder, ColdStartExample, kind=ColdStartKind.IFT)[0]
    story = lineage(folder, example.example_id)
    assert example.subject_id in story.nodes
    assert versions[1].policy_version_id in story.nodes
    assert evaluate_policy(config, 1)["digest"] == verified_commits(folder)[-1].chain_digest, "found, not made again"

    replayed = replay(folder)
    assert replayed.rows["cold_start_example"] == 9 + result["n_ift"]
    assert (replayed.differences, replayed.not_replayed) == ([], ["start", "supervised_fine_tuning"])

    # An example of a query that is redacted is not shown again, and is no difference.
    gone = load(folder, ColdStartExample, kind=ColdStartKind.IFT)[0].query_id
    redact_query(folder, gone, "licence")
    cold_start(config)
    examples = [json.loads(line) for line in (folder / "cold_start" / "examples.jsonl").read_text().splitlines()]
    assert {row["id"] for row in examples} == {
        e.example_id for e in load(folder, ColdStartExample) if e.query_id != gone
    }
    replayed = replay(folder)
    assert replayed.differences == []
    assert replayed.rows["cold_start_example"] == 0, "the choice was among all"
    assert replayed.n_redacted > 9 + result["n_ift"]

    with pytest.raises(ConfigError, match="is of the flow cold_start, not train"):
        train(config)
    with pytest.raises(ConfigError, match='set method = "tapo" for a cold start'):
        cold_start(configure("none", 'method="grpo"'))

    # What the two preparations made is what a training run takes.
    filtered = configure("filtered", "zpd.samples=2", "zpd.low=0.1", "zpd.high=0.9", "data.queries_per_iteration=20")
    summary = filter_training_set(filtered)
    ready = [
        f"model.path={result['checkpoint']}",
        f"data.train={filtered.run_folder / 'zpd' / 'train.jsonl'}",
        f"data.queries_per_iteration={min(8, summary['n_kept'])}",
    ]
    trained = configure("trained", *ready)
    train(trained)
    begun = next(v for v in load(trained.run_folder, PolicyVersion) if v.iteration == 0)
    assert begun.checkpoint_digest == versions[1].checkpoint_digest
    known = {
        row["id"] for row in map(json.loads, (filtered.run_folder / "zpd" / "train.jsonl").read_text().splitlines())
    }
    assert {r.query_id for r in load(trained.run_folder, Rollout, kind="training")} <= known
    assert verified_commits(trained.run_folder)[-1].stage == "evaluate"


class StopInside(StopAt):
    """A reporter that interrupts the run in the middle of a stage's work."""

    def advance(self, done: int, total: int, unit: str) -> None:
        if done > 1 and self.seen[-1:] == [self.at]:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_cold_start_goes_on_where_it_stopped_bit_for_bit(configure: Configure) -> None:
    whole, broken = configure("whole-start", *SMALL), configure("broken-start", *SMALL)
    cold_start(whole)
    for stop, last in [
        (StopInside(2, "sample"), (1, "diagnose_and_correct")),
        (StopAt(1, "build_cold_start_data"), (2, "diagnose_and_correct")),
        (StopInside(1, "supervised_fine_tuning"), (1, "build_cold_start_data")),
    ]:
        with reporting(stop), pytest.raises(KeyboardInterrupt):
            cold_start(broken)
        assert stop.seen[-1] == stop.at
        commit = verified_commits(broken.run_folder)[-1]
        assert (commit.iteration, commit.stage) == last
        assert not (broken.run_folder / "policies" / "000001").exists(), "complete or absent"
    cold_start(broken)
    assert made_by(broken) == made_by(whole)
    finished = StopAt(-1, "never")
    with reporting(finished):
        cold_start(broken)
    assert finished.seen == [], "a finished cold start has nothing left to do"


@pytest.mark.parametrize(("keys", "says"), [
    (["sampler.rollouts_per_query=16", "filter.n_pos=15"], "no query has at least 15 correct and 1 wrong"),
    (["correction.max_new_tokens=4"], r"no construction of \d+ parsed and is correct \(truncated \d+\)"),
    (["sampler.max_new_tokens=1"], r"none of \d+ rollouts is correct and ended by itself"),
])  # fmt: skip
def test_no_example_of_a_kind_is_an_error_that_says_why(configure: Configure, keys: list[str], says: str) -> None:
    config = configure("nothing-learnt", *SMALL, "cold_start.chunks=1", *keys)
    with pytest.raises(UserError, match=says):
        cold_start(config)
    assert verified_commits(config.run_folder)[-1].stage == "diagnose_and_correct"
    assert not (config.run_folder / "cold_start").exists()
