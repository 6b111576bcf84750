"""Whole iterations on real vLLM, real OpenRLHF, real DuckDB and Prefect; nothing is mocked."""

import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flows.evaluate import evaluate_policy
from flows.train import train
from tapo_core.chat import Chat
from tapo_core.cli.reporter import RichReporter
from tapo_core.comparison import PolicyAt, compare_policies, differing_settings
from tapo_core.config import TapoConfig
from tapo_core.errors import ConfigError, UserError
from tapo_core.ids import file_sha256
from tapo_core.progress import reporting
from tapo_core.records import (
    Advantage,
    Correction,
    ErrorLocation,
    Evaluation,
    ParseOutcome,
    PolicyVersion,
    Rollout,
    RolloutTokens,
    TokenRole,
    TokenWeight,
    UpdateMetric,
    Verification,
)
from tapo_core.replay import Resampled, replay, resample
from tapo_core.resume import resumable
from tapo_core.steps import split_steps
from tapo_core.store import load, query, verified_commits
from tests.flows.conftest import Configure, StopAt, polled

pytestmark = pytest.mark.usefixtures("prefect_server")
STAGES = ["sample", "verify", "locate_error", "diagnose_and_correct", "filter_by_difficulty", "update_policy"]


def commits(config: TapoConfig) -> list[tuple[int, str]]:
    return [(commit.iteration, commit.stage) for commit in verified_commits(config.run_folder)]


def trajectories(config: TapoConfig) -> tuple[object, ...]:
    """What must not differ between two runs of the same seed and configuration, without the ids that name the run."""
    folder = config.run_folder
    rollouts = {r.rollout_id: (r.iteration, r.query_id, r.kind, r.k) for r in load(folder, Rollout)}
    names = rollouts | {c.correction_id: (*rollouts[c.wrong_rollout_id], "c") for c in load(folder, Correction)}
    tokens = {(names[t.subject_id], t.role): (t.token_ids_T, t.logprobs_T) for t in load(folder, RolloutTokens)}
    rewards = {names[v.subject_id]: v.reward for v in load(folder, Verification)}
    advantages = {names[a.subject_id]: a.value for a in load(folder, Advantage)}
    return tokens, rewards, advantages


def test_an_iteration_end_to_end_and_the_same_again(configure: Configure) -> None:
    config = configure("first", "run.iterations=2", "tracking.tensorboard=true")
    result = train(config)
    folder = config.run_folder
    assert result["iterations"] == 2
    assert commits(config) == [
        (0, "start"),
        (0, "evaluate"),
        *((1, stage) for stage in STAGES),
        *((2, stage) for stage in STAGES),
        (2, "evaluate"),
    ]
    rollouts = load(folder, Rollout, kind="training")
    assert len(rollouts) == 2 * 12 * 8
    assert len({(r.iteration, r.query_id, r.k) for r in rollouts}) == len(rollouts)
    versions = {v.policy_version_id: v for v in load(folder, PolicyVersion)}
    assert all(versions[r.policy_version_id].iteration == r.iteration - 1 for r in rollouts)

    corrections = load(folder, Correction)
    parsed = [c for c in corrections if c.parse_outcome is ParseOutcome.PARSED]
    assert parsed, "the small model should manage at least one construction"
    assert all(c.raw_output and c.parse_detail for c in corrections if c.parse_outcome is not ParseOutcome.PARSED)
    texts = {r.rollout_id: r.text for r in rollouts}
    tokens = {(t.subject_id, t.role): t for t in load(folder, RolloutTokens)}
    for correction in parsed:
        wrong = correction.wrong_rollout_id
        assert correction.prefix_char_end is not None
        assert (correction.constructed_text or "").startswith(texts[wrong][: correction.prefix_char_end])
        constructed = tokens[correction.correction_id, TokenRole.CONSTRUCTED]
        own = tokens[wrong, TokenRole.ROLLOUT]
        assert constructed.prompt_token_ids == own.prompt_token_ids
        assert correction.prefix_token_end
        assert constructed.token_ids_T[: correction.prefix_token_end] == own.token_ids_T[: correction.prefix_token_end]
    weighted = load(folder, TokenWeight)
    assert {w.subject_id for w in weighted} == {c.correction_id for c in parsed}
    assert all(0.01 - 1e-6 <= weight <= 10.0 + 1e-5 for w in weighted for weight in w.weights_T)

    # The trainer moved the policy, and what vLLM sampled from is what was published: each policy was probed as it was loaded.
    probes = query(folder, "FROM probe ORDER BY iteration, stage = 'evaluate'").to_dict("records")
    assert [(row["iteration"], row["stage"], row["calibration"]) for row in probes] == [
        (0, "evaluate", True), (2, "sample", False), (2, "evaluate", False),
    ]  # fmt: skip
    loaded = [v.policy_version_id for v in sorted(versions.values(), key=lambda v: v.iteration)]
    assert [str(row["policy_version_id"]) for row in probes] == loaded
    assert all(row["same_weights"] and 0.0 < row["mean_abs"] <= row["bound"] for row in probes)
    assert probes[0]["n_tokens"] > 2 * probes[1]["n_tokens"] > 100
    assert len({v.checkpoint_digest for v in versions.values()}) == 3
    metrics = {(m.iteration, m.name): m.value for m in load(folder, UpdateMetric)}
    assert metrics[1, "grad_norm"] > 0.0
    assert metrics[2, "sampler_mismatch/max"] < 1e-3
    curves = query(folder, "SELECT * FROM training_curves ORDER BY iteration").to_dict("records")
    assert [row["iteration"] for row in curves] == [1, 2]
    lengths = [r.n_tokens for r in rollouts if r.iteration == 2]
    assert curves[1]["response_length"] == pytest.approx(sum(lengths) / len(lengths))
    assert curves[1]["loss"] == pytest.approx(metrics[2, "loss"])
    assert curves[1]["grad_norm"] == pytest.approx(metrics[2, "grad_norm"])
    steps = [
        e.step / (e.n_steps - 1)
        for e in load(folder, ErrorLocation, iteration=1, method="construction")
        if e.step is not None and e.n_steps > 1
    ]
    assert curves[0]["located_at"] == pytest.approx(sum(steps) / len(steps))
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("curves/loss")] == [
        (row["iteration"], pytest.approx(row["loss"])) for row in curves
    ]
    assert [e.step for e in events.Scalars("evaluation/held_out/pass@1")] == [0, 2]
    why = query(folder, "SELECT count(*) AS n FROM why_in_batch")
    assert int(why.n[0]) == len(load(folder, Advantage))

    told = io.StringIO()
    RichReporter(Console(file=told, width=200), 2).iteration(folder, 2)
    row = query(folder, "SELECT * FROM iteration_summary WHERE iteration = 2").iloc[0]
    assert told.getvalue().startswith(
        f"iteration   2/2  accuracy {row.accuracy:5.1%}  eligible {row.n_eligible:2.0f}  constructed {row.n_parsed:.0f}/"
        f"{row.n_corrections:.0f} parsed {row.n_corrections_correct:.0f} correct  trained on {row.n_trained_original:.0f}+"
        f"{row.n_trained_constructed:.0f} "
    )

    # Every derived value comes out again, and so does what the engine sampled.
    replayed = replay(folder)
    assert replayed.differences == []
    assert replayed.rows["rollout"] == len(rollouts) + 2 * 12 * 2
    assert replayed.rows["verification"] == replayed.rows["rollout"] + len(parsed)
    assert replayed.not_replayed == ["start"]
    assert resample(folder, 6) == Resampled(6, [])

    check_report(config)
    again = configure("second", "run.iterations=2")
    train(again)
    assert again.digest == config.digest, "tracking is not part of what a run is"
    assert trajectories(again) == trajectories(config)
    assert sorted((e.iteration, e.metric, e.value) for e in load(folder, Evaluation)) == sorted(
        (e.iteration, e.metric, e.value) for e in load(again.run_folder, Evaluation)
    )


def check_report(config: TapoConfig) -> None:
    """What the Prefect UI shows of the second iteration, against the store."""
    shown = str(getattr(Artifact.get("iteration-first"), "data", None))
    (row,) = query(config.run_folder, "SELECT * FROM iteration_summary WHERE iteration = 2").to_dict("records")
    parsed, n = int(row["n_parsed"]), int(row["n_corrections"])
    assert shown.startswith("Iteration 2 of 2 of run first")
    assert f"| accuracy of the training rollouts | {row['accuracy']:.1%} |" in shown
    assert f"| eligible queries | {row['n_eligible']:.0f} of {row['n_queries']:.0f} |" in shown
    assert f"| constructions that parsed | {parsed} of {n} ({parsed / n:.1%})" in shown
    trained = f"{row['n_trained_original']:.0f} original, {row['n_trained_constructed']:.0f} constructed"
    assert f"| trained on | {trained}, in " in shown
    evaluated = {e.iteration: e for e in load(config.run_folder, Evaluation, dataset="held_out", metric="pass@1")}
    gain = f"{evaluated[2].value - evaluated[0].value:+.1%} since version 0"
    assert f"| held-out pass@1 of version 2 | {evaluated[2].value:.1%} (" in shown
    assert gain in shown
    corrections = {c.correction_id: c for c in load(config.run_folder, Correction, iteration=2)}
    ids = re.findall(r"^Id (\S+)$", shown, re.MULTILINE)
    assert len(set(ids)) == min(3, parsed) > 0
    for correction_id in ids:
        found = corrections[correction_id]
        assert found.parse_outcome is ParseOutcome.PARSED
        for part in (found.diagnosis, found.correction, (found.constructed_text or "")[: found.prefix_char_end or 0]):
            assert part
            assert f"```\n{part}\n```" in shown
    asked = re.findall(r'^tapo sql "(.*)" --run ', shown, re.MULTILINE)
    assert len(asked) == 2
    assert all(len(query(config.run_folder, sql)) for sql in asked)


def n_reports(config: TapoConfig) -> int:
    key = f"iteration-{config.run.name}"
    with get_client(sync_client=True) as client:
        return len(client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))))


def test_an_interrupted_run_goes_on_where_it_stopped_bit_for_bit(configure: Configure) -> None:
    whole, broken = configure("whole", "run.iterations=2"), configure("broken", "run.iterations=2")
    with polled(whole.run_folder) as seen:
        train(whole)
    assert seen["torn"] == []
    assert seen["lengths"] == sorted(seen["lengths"])
    assert len(set(seen["lengths"])) > 6, "the reader saw the run grow"
    for stop in [(1, "diagnose_and_correct"), (2, "sample"), (2, "update_policy")]:
        reporter = StopAt(*stop)
        with reporting(reporter), pytest.raises(KeyboardInterrupt):
            train(broken)
        assert commits(broken)[-1] != stop
        verified_commits(broken.run_folder)
    resumed, flow = resumable(broken.run_folder)
    assert (resumed, flow) == (broken, "train")
    train(resumed)
    assert commits(broken) == commits(whole)
    assert trajectories(broken) == trajectories(whole)
    weights = [config.run_folder / "policies/000002/hf/model.safetensors" for config in (whole, broken)]
    assert file_sha256(weights[0]) == file_sha256(weights[1])

    calibrated = [
        query(c.run_folder, "SELECT stage FROM probe WHERE calibration").stage.to_list() for c in (whole, broken)
    ]
    assert calibrated == [["evaluate"], ["evaluate"]], "a resumed run knows the noise that it measured when it began"

    finished = StopAt(-1, "never")
    with reporting(finished):
        train(broken)
    assert finished.seen == [], "a finished run has nothing left to do: every stage is cached"
    assert n_reports(whole) == n_reports(broken) == 2, "one for each iteration, however often it was begun"


def test_every_method_of_error_location_leaves_its_row(configure: Configure) -> None:
    methods = ["arithmetic", "task", "policy", "continuation"]
    config = configure(
        "located",
        f"locate_error.methods={json.dumps(methods)}",
        "locate_error.votes=3",
        "locate_error.continuations=2",
        "filter.m_max=1",
    )
    train(config)
    folder = config.run_folder
    rows = load(folder, ErrorLocation, iteration=1)
    candidates = {c.wrong_rollout_id for c in load(folder, Correction)}
    assert candidates
    assert {(r.rollout_id, r.method) for r in rows if r.method != "construction"} == {
        (rollout_id, method) for rollout_id in candidates for method in methods
    }
    texts = {r.rollout_id: r.text for r in load(folder, Rollout, kind="training")}
    shown = {c.wrong_rollout_id: c.reference_rollout_id for c in load(folder, Correction)}
    asked = set()
    for row in rows:
        if row.step is not None:
            step = split_steps(texts[row.rollout_id])[row.step]
            assert (row.char_start, row.char_end) == (step.char_start, step.char_end)
            assert row.token_start is not None
            assert row.token_end is not None
            assert row.token_start < row.token_end
        if row.method == "policy":
            votes = json.loads(row.votes or "")
            assert len(votes) == 3
            assert row.reference_rollout_id == shown[row.rollout_id]
            assert (row.step is None) == all(vote["outcome"] != "counted" for vote in votes)
            asked |= {vote["seed"] for vote in votes}
        if row.method == "continuation" and row.votes is not None:
            assert all(tally["n"] <= len(tally["outputs"]) == 2 for tally in json.loads(row.votes))
    assert len(asked) == 3 * len(candidates)
    # The task's rules are the truth; what the arithmetic method flags is there or after it.
    found = {(r.rollout_id, r.method): r.step for r in rows}
    # (An answer that was cut off can be wrong without a wrong step.)
    assert any(found[rollout_id, "task"] is not None for rollout_id in candidates)
    for rollout_id in candidates:
        flagged, truth = found[rollout_id, "arithmetic"], found[rollout_id, "task"]
        assert flagged is None or truth is None or truth <= flagged


ABLATIONS = {
    "grpo": 'method="grpo"',
    "merged": 'advantage.constructed_scope="merged"',
    "full_reconstruction": 'correction.mode="full_reconstruction"',
    "no_ots": "token_weight.enabled=false",
    "no_cold_start": "nano.construction_share=0.0",
    "prefix_masked": "update.train_prefix=false",
    "correction_only": "update.train_prefix=false;update.train_diagnosis=false",
    "sft": 'advantage.constructed_scope="raw";update.constructed_loss="log_likelihood";filter.require_correct=true;'
    "token_weight.enabled=false",
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_is_a_setting(configure: Configure, name: str) -> None:
    config = configure(name, *ABLATIONS[name].split(";"))
    train(config)
    folder = config.run_folder
    corrections = {c.correction_id: c for c in load(folder, Correction)}
    parsed = [c for c in corrections.values() if c.parse_outcome is ParseOutcome.PARSED]
    advantages = load(folder, Advantage)
    weights = load(folder, TokenWeight)
    tokens = {t.subject_id: t for t in load(folder, RolloutTokens, role=TokenRole.CONSTRUCTED)}
    assert set(tokens) == {c.correction_id for c in parsed}
    trained = {a.subject_id for a in advantages if a.advantage_group == "constructed"}
    assert {w.subject_id for w in weights} == trained
    assert trained < set(tokens) if name == "sft" else trained == set(tokens)  # that ablation drops the wrong ones
    if name == "grpo":
        assert [stage for _, stage in commits(config)] == [
            "start", "evaluate", "sample", "verify", "filter_by_difficulty", "update_policy", "evaluate",
        ]  # fmt: skip
        assert corrections == {}
        assert {a.advantage_group for a in advantages} == {"original"}
        return
    assert corrections
    if name == "no_cold_start":  # a model that was never taught the task of construction
        assert {c.parse_outcome for c in corrections.values()} <= {ParseOutcome.NO_TAG, ParseOutcome.TRUNCATED}
        return
    assert parsed
    if name == "merged":  # one group a query: its originals and its constructions
        assert {a.scope for a in advantages} == {"merged"}
        assert {a.advantage_group for a in advantages} == {"original", "constructed"}
        sizes = Counter(a.query_id for a in advantages)
        assert {a.query_id: a.group_size for a in advantages} == dict(sizes)
    elif name == "full_reconstruction":
        wrong = {r.rollout_id: r.text for r in load(folder, Rollout)}
        assert all(c.prefix_steps is None and not c.prefix_token_end for c in parsed)
        assert all(c.constructed_text == c.correction != wrong[c.wrong_rollout_id] for c in parsed)
        assert {c.prompt_version for c in parsed} == {"full_reconstruction_short_v1"}
    elif name == "no_ots":
        assert {weight for row in weights for weight in row.weights_T} == {1.0}
    elif name == "sft":  # the correct constructions, all alike
        constructed = [a for a in advantages if a.advantage_group == "constructed"]
        assert constructed
        assert {(a.scope, a.reward, a.value) for a in constructed} == {("raw", 1.0, 1.0)}
        assert {weight for row in weights for weight in row.weights_T} == {1.0}
    elif name == "correction_only":
        chat = Chat(config.run_folder / "policies" / "000001" / "hf", {})
        for row in weights:
            begin = next(index for index, weight in enumerate(row.weights_T) if weight > 0.0)
            learnt = chat.decode(tokens[row.subject_id].token_ids_T[begin:])
            assert learnt == corrections[row.subject_id].correction
    else:
        ends = {row.subject_id: corrections[row.subject_id].prefix_token_end for row in weights}
        assert all(ends.values())
        for row in weights:
            end = ends[row.subject_id] or 0
            assert row.weights_T[:end] == [0.0] * end
            assert min(row.weights_T[end:]) >= 0.0099


def test_any_policy_version_can_be_evaluated_on_any_benchmark(configure: Configure, tmp_path: Path) -> None:
    more = tmp_path / "more.jsonl"
    problems = [{"problem": f"Start with 7. Add {n}. What is the result?", "answer": str(7 + n)} for n in range(1, 7)]
    more.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    benchmark = f'evaluation.datasets={{more="{more}"}}'
    config = configure("evaluated", 'method="grpo"', "evaluation.samples=1", "run.iterations=2", benchmark)
    train(config)
    evaluate_policy(config, 1)
    found = load(config.run_folder, Evaluation, metric="pass@1")
    assert sorted((e.iteration, e.dataset) for e in found) == [(i, d) for i in (0, 1, 2) for d in ("held_out", "more")]
    artifact = Artifact.get("evaluation-evaluated")
    assert "| more | pass@1 | " in str(getattr(artifact, "data", None))
    other = configure("other", 'method="grpo"', "update.learning_rate=1e-3", "run.iterations=1")
    train(other)
    differences = differing_settings(config.run_folder, other.run_folder).set_index("setting")
    assert set(differences.index) == {
        *(f"evaluation.datasets.more.{key}" for key in ("path", "columns.problem", "columns.answer")),
        *("evaluation.samples", "policies", "queries/more", "run.iterations", "run.name", "update.learning_rate"),
    }
    assert tuple(differences.loc["update.learning_rate"]) == ("0.0003", "0.001")
    version = PolicyAt(config.run_folder, 1)
    assert compare_policies(version, version, "more").p_value == 1.0
    with pytest.raises(UserError, match="was not evaluated on 'held_out'"):
        compare_policies(PolicyAt(config.run_folder, 3), version, "held_out")
    with pytest.raises(UserError, match="no policy version 7; there are 0 to 2"):
        evaluate_policy(config, 7)


def test_another_configuration_needs_another_name(configure: Configure) -> None:
    config = configure("named", 'method="grpo"')
    train(config)
    with pytest.raises(ConfigError, match=r"update\.learning_rate is .* choose another run\.name"):
        train(configure("named", 'method="grpo"', "update.learning_rate=0.1"))


def test_the_manifests_are_small_json(configure: Configure) -> None:
    config = configure("manifests")
    train(config)
    for commit in verified_commits(config.run_folder):
        assert len(json.dumps(commit.manifest)) < 2000
