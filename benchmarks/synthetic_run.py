"""A run of any size without an engine: the rows that a training run of so many rollouts would have, drawn from a seed.

Texts, tokens and verdicts are random; ids, kinds of rows, their numbers and their links are those of a run. It is for measuring
the store, and says nothing about training.
"""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tapo_core.ids import deterministic_id, digest, sha256_text
from tapo_core.records import (
    Advantage,
    AdvantageGroup,
    Config,
    Correction,
    ErrorLocation,
    Evaluation,
    FinishReason,
    ParseOutcome,
    PolicyVersion,
    Query,
    Rollout,
    RolloutKind,
    RolloutTokens,
    Run,
    SelectionDecision,
    SubjectKind,
    TokenRole,
    TokenWeight,
    UpdateMetric,
    Verification,
    VerificationOutcome,
)
from tapo_core.store import Record, StageCommit, StoreWriter

RUN_ID = deterministic_id("run", name="synthetic")
GROUP_SIZE = 8
_CONFIG_DIGEST = sha256_text("{}")
_WORDS = ["start", "with", "add", "then", "subtract", "is", "what", "so", "the", "answer", "wait", "not", "redo"]


class SyntheticRun:
    """The stages of a run, iteration by iteration."""

    def __init__(self, n_tokens: int, n_queries: int = 4096, seed: int = 0) -> None:
        """`n_tokens`: mean tokens of a rollout (and of log-probabilities); a text has about three characters for each."""
        self._n_tokens = n_tokens
        self._random = random.Random(seed)
        self._sampled: dict[str, RolloutTokens] = {}
        self.queries = [self._query(n) for n in range(n_queries)]
        self.accuracy = {query.query_id: self._random.betavariate(1.2, 1.2) for query in self.queries}

    def reseed(self, seed: int) -> None:
        """Draw on as another run would."""
        self._random.seed(seed)

    def _id(self, iteration: int = 0) -> str:
        """An id like those of a run: the hash of something, and the iteration."""
        return deterministic_id("synthetic", iteration=iteration, n=self._random.getrandbits(64))

    def _text(self, n_tokens: int) -> str:
        words = self._random.choices(_WORDS, k=max(1, n_tokens // 2))
        return " ".join((*words, str(self._random.randrange(10_000))))

    def _query(self, n: int) -> Query:
        text, source = self._text(24), f"train.jsonl:{n + 1}"
        content = digest({"text": text, "gold": str(n)})
        return Query(self._id(), RUN_ID, "train", text, str(n), "chain", n % 5, source, content)

    def _tokens(self, subject_id: str, iteration: int, role: TokenRole, n: int) -> RolloutTokens:
        ids = [self._random.randrange(32_000) for _ in range(n)]
        logprobs = None if role is TokenRole.CONSTRUCTED else [-self._random.random() for _ in range(n)]
        return RolloutTokens(subject_id, RUN_ID, iteration, role, ids[:40], ids, logprobs)

    def start(self) -> list[Record]:
        """The rows of the first stage."""
        return [
            Run(RUN_ID, "synthetic", 0, "tapo", _CONFIG_DIGEST, "0", "{}", "2026-01-02T03:04:05+00:00"),
            Config(_CONFIG_DIGEST, "{}"),
            self._version(0),
            *self.queries,
        ]

    def _version(self, iteration: int) -> PolicyVersion:
        version = [deterministic_id("policy_version", iteration=n) for n in (iteration, iteration - 1)]
        parent = version[1] if iteration else None
        path = f"policies/{iteration:06d}"
        return PolicyVersion(
            version[0], RUN_ID, iteration, parent, path, sha256_text(path), path, sha256_text(path), iteration
        )

    def stages(self, iteration: int, n_groups: int) -> Iterator[tuple[str, list[Record]]]:
        """The stages of one iteration of `n_groups` groups of 8 rollouts, in order."""
        draw = self._random
        policy = deterministic_id("policy_version", iteration=iteration - 1)
        groups: list[tuple[Query, list[Rollout], list[Verification]]] = []
        for query in draw.sample(self.queries, n_groups):
            rollouts = [self._rollout(query, iteration, policy, k) for k in range(GROUP_SIZE)]
            groups.append((query, rollouts, [self._verdict(query, rollout) for rollout in rollouts]))
        everything = [rollout for _, rollouts, _ in groups for rollout in rollouts]
        tokens = [self._sampled.pop(rollout.rollout_id) for rollout in everything]
        yield "sample", [*everything, *tokens]
        yield "verify", [verdict for _, _, verdicts in groups for verdict in verdicts]

        wrong, n_correct = [], {}
        for query, rollouts, verdicts in groups:
            right = [r for r, v in zip(rollouts, verdicts, strict=True) if v.reward == 1.0]
            n_correct[query.query_id] = len(right)
            if right and 2 * len(right) <= len(rollouts):
                wrong += [(r, right[0]) for r, v in zip(rollouts, verdicts, strict=True) if v.reward == 0.0]
        locations = [self._location(rollout, "arithmetic") for rollout, _ in wrong]
        yield "locate_error", [*locations, *(self._location(rollout, "task") for rollout, _ in wrong)]
        corrections = [self._correction(r, right, where) for (r, right), where in zip(wrong, locations, strict=True)]
        parsed = [c for c in corrections if c.parse_outcome is ParseOutcome.PARSED]
        yield (
            "diagnose_and_correct",
            [
                *corrections,
                *(self._tokens(c.correction_id, iteration, TokenRole.CORRECTION, self._n_tokens) for c in corrections),
                *(self._tokens(c.correction_id, iteration, TokenRole.CONSTRUCTED, self._n_tokens) for c in parsed),
                *(self._constructed_verdict(c) for c in parsed),
            ],
        )
        selected = [q.query_id for q, _, _ in groups if 0 < n_correct[q.query_id] < GROUP_SIZE]
        decisions = [
            *(self._decision(SubjectKind.QUERY, q.query_id, iteration, n_correct[q.query_id]) for q, _, _ in groups),
            *(self._decision(SubjectKind.ROLLOUT, r.rollout_id, iteration, n_correct[r.query_id]) for r in everything),
            *(
                self._decision(SubjectKind.CONSTRUCTED, c.correction_id, iteration, n_correct[c.query_id])
                for c in parsed
            ),
        ]
        yield "filter_by_difficulty", list(decisions)
        trained = [r for r in everything if r.query_id in selected]
        version = self._version(iteration)
        yield (
            "update_policy",
            [
                version,
                *(self._advantage(SubjectKind.ROLLOUT, r.rollout_id, r.query_id, iteration) for r in trained),
                *(self._advantage(SubjectKind.CONSTRUCTED, c.correction_id, c.query_id, iteration) for c in parsed),
                *(self._weights(c) for c in parsed),
                *(
                    UpdateMetric(RUN_ID, iteration, version.policy_version_id, step, name, draw.random())
                    for step in range(4)
                    for name in ("loss", "grad_norm", "kl/original")
                ),
            ],
        )
        if iteration % 10 == 1:
            yield "evaluate", [self._evaluation(version)]

    def _rollout(self, query: Query, iteration: int, policy: str, k: int) -> Rollout:
        n = max(2, int(self._random.gauss(self._n_tokens, self._n_tokens / 4)))
        text = self._text(n)
        rollout_id = self._id(iteration)
        self._sampled[rollout_id] = self._tokens(rollout_id, iteration, TokenRole.ROLLOUT, n)
        return Rollout(
            rollout_id=rollout_id,
            run_id=RUN_ID,
            iteration=iteration,
            query_id=query.query_id,
            policy_version_id=policy,
            kind=RolloutKind.TRAINING,
            k=k,
            seed=self._random.getrandbits(31),
            text=text,
            n_prompt_tokens=40,
            n_tokens=n,
            finish_reason=FinishReason.LENGTH if self._random.random() < 0.02 else FinishReason.STOP,
            temperature=1.0,
            top_p=1.0,
            max_new_tokens=2 * self._n_tokens,
            engine="synthetic",
            content_sha256=digest({"text": text, "token_ids": self._sampled[rollout_id].token_ids_T}),
        )

    def _verdict(self, query: Query, rollout: Rollout) -> Verification:
        unknown = self._random.random() < 0.002
        correct = self._random.random() < self.accuracy[query.query_id]
        known = VerificationOutcome.CORRECT if correct else VerificationOutcome.WRONG
        return Verification(
            verification_id=self._id(rollout.iteration),
            run_id=RUN_ID,
            iteration=rollout.iteration,
            subject_kind=SubjectKind.ROLLOUT,
            subject_id=rollout.rollout_id,
            outcome=VerificationOutcome.UNKNOWN if unknown else known,
            reward=None if unknown else float(correct),
            extracted_answer=query.gold if correct else str(self._random.randrange(100)),
            gold=query.gold,
            tier="number",
            reason="timeout" if unknown else None,
            verifier="exact",
            verifier_version="1",
        )

    def _constructed_verdict(self, correction: Correction) -> Verification:
        return Verification(
            verification_id=self._id(correction.iteration),
            run_id=RUN_ID,
            iteration=correction.iteration,
            subject_kind=SubjectKind.CONSTRUCTED,
            subject_id=correction.correction_id,
            outcome=VerificationOutcome.CORRECT,
            reward=1.0,
            extracted_answer="1",
            gold="1",
            tier="number",
            reason=None,
            verifier="exact",
            verifier_version="1",
        )

    def _location(self, wrong: Rollout, method: str) -> ErrorLocation:
        step = self._random.randrange(5) if self._random.random() < 0.9 else None
        where = (None,) * 5 if step is None else (0, 9, 0, 3, "7 + 12 = 18, but it is 19")
        return ErrorLocation(
            *(self._id(wrong.iteration), RUN_ID, wrong.iteration, wrong.rollout_id, method, step, 5, *where),
            *(None,) * 6,
        )

    def _correction(self, wrong: Rollout, reference: Rollout, location: ErrorLocation) -> Correction:
        parsed = self._random.random() < 0.75
        output, n = self._text(2 * self._n_tokens), self._n_tokens
        constructed = self._text(n) if parsed else None
        return Correction(
            correction_id=self._id(wrong.iteration),
            run_id=RUN_ID,
            iteration=wrong.iteration,
            query_id=wrong.query_id,
            wrong_rollout_id=wrong.rollout_id,
            reference_rollout_id=reference.rollout_id,
            error_location_id=location.error_location_id,
            policy_version_id=wrong.policy_version_id,
            prompt_version="micro_reflective_v1",
            prompt_sha256=sha256_text("prompt"),
            seed=self._random.getrandbits(31),
            raw_output=output,
            finish_reason=FinishReason.STOP,
            parse_outcome=ParseOutcome.PARSED if parsed else ParseOutcome.NO_DIAGNOSIS,
            parse_detail=None,
            analysis=self._text(n // 2),
            prefix_steps=2 if parsed else None,
            prefix_char_end=20 if parsed else None,
            prefix_token_end=8 if parsed else None,
            match_score=100.0,
            diagnosis=self._text(12) if parsed else None,
            correction=self._text(n // 2) if parsed else None,
            constructed_text=constructed,
            content_sha256=digest({"raw_output": output, "constructed_text": constructed}),
        )

    def _decision(self, kind: SubjectKind, subject_id: str, iteration: int, n_correct: int) -> SelectionDecision:
        selected = 0 < n_correct < GROUP_SIZE
        reason = "eligible" if selected else "mastered"
        return SelectionDecision(
            self._id(iteration),
            RUN_ID,
            iteration,
            kind,
            subject_id,
            selected,
            reason,
            n_correct,
            GROUP_SIZE - n_correct,
            0,
        )

    def _advantage(self, kind: SubjectKind, subject_id: str, query_id: str, iteration: int) -> Advantage:
        constructed = kind is SubjectKind.CONSTRUCTED
        group = AdvantageGroup.CONSTRUCTED if constructed else AdvantageGroup.ORIGINAL
        reward = float(constructed or self._random.random() < 0.5)
        return Advantage(
            RUN_ID, iteration, kind, subject_id, group, "query", query_id, GROUP_SIZE, reward, 0.5, 0.5, 2 * reward - 1
        )

    def _weights(self, correction: Correction) -> TokenWeight:
        values = [[self._random.random() for _ in range(self._n_tokens)] for _ in range(3)]
        return TokenWeight(RUN_ID, correction.iteration, correction.correction_id, *values)

    def _evaluation(self, version: PolicyVersion) -> Evaluation:
        value = self._random.random()
        return Evaluation(
            *(self._id(version.iteration), RUN_ID, version.iteration, version.policy_version_id, "held_out", "pass@1"),
            *(value, value - 0.03, value + 0.03, 0.95, "bootstrap", 640, 640),
        )


def _manifest(records: list[Record]) -> dict[str, float]:
    """Counts of a stage's records, by the names that the real stages' manifests have."""
    counts: Counter[str] = Counter()
    for record in records:
        match record:
            case Rollout():
                counts.update({"n_rollouts": 1, "n_tokens": record.n_tokens})
            case Verification(subject_kind=SubjectKind.ROLLOUT):
                counts[record.outcome] += 1
            case Correction():
                counts[record.parse_outcome] += 1
            case SelectionDecision():
                counts[f"{record.subject_kind}/{record.reason}"] += 1
            case Advantage():
                counts[f"n_{record.advantage_group}"] += 1
    measured = [record for record in records if isinstance(record, Evaluation)]
    return dict(counts) | {
        name: value
        for one in measured
        for name, value in ((one.metric, one.value), ("low", one.low), ("high", one.high))
    }


def commit(folder: Path, iteration: int, stage: str, records: list[Record]) -> StageCommit:
    """Commit one stage as a pipeline would."""
    return StoreWriter(folder).commit_stage(
        run_id=RUN_ID,
        iteration=iteration,
        stage=stage,
        config_digest=_CONFIG_DIGEST,
        input_digest=sha256_text(stage),
        manifest=_manifest(records),
        records=records,
    )
