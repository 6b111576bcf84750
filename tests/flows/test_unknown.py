"""Verdicts that are unknown: masked, told of, judged again later; and the same verdicts from many tasks at once."""

from collections.abc import Callable
from pathlib import Path

import pytest
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner
from typer.testing import CliRunner

from flows.train import train
from tapo_core.cli.main import app
from tapo_core.config_verifier import VerifierConfig
from tapo_core.progress import reporting
from tapo_core.records import Rollout, SelectionDecision, SubjectKind, Verification, VerificationOutcome
from tapo_core.replay import replay
from tapo_core.store import load, query, verified_commits
from tapo_core.store.audit import verify as audit
from tapo_core.verification.base import Question
from tapo_core.verification.math import MathVerifier
from tests.flows.conftest import Configure, StopAt

pytestmark = pytest.mark.usefixtures("prefect_server")

#: Cannot tell about every third query, until a file is there.
JUDGE = """
import pathlib, re
def judge(query, gold, text):
    if int(gold) % 3 == 0 and not pathlib.Path({flag!r}).exists():
        return None
    boxes = re.findall(r"boxed\\{{(.*?)\\}}", text)
    return bool(boxes) and boxes[-1] == gold
"""


class Notes(StopAt):
    """Keeps what is told."""

    def __init__(self) -> None:
        super().__init__(-1, "never")
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def test_unknown_is_masked_and_told_of_and_can_be_judged_again(
    configure: Configure, tmp_path: Path, offer_verifier: Callable[[str], None]
) -> None:
    flag = tmp_path / "able"
    offer_verifier(JUDGE.format(flag=str(flag)))
    config = configure("unknown", "verifier.name=offered")
    notes = Notes()
    with reporting(notes):
        train(config)
    folder = config.run_folder
    first = load(folder, Verification)
    unknown = {v.verification_id for v in first if v.outcome is VerificationOutcome.UNKNOWN}
    of_training = {v.subject_id for v in first if v.verification_id in unknown and v.iteration == 1}
    assert 0 < len(unknown) < len(first)
    assert {v.reason for v in first if v.verification_id in unknown} == {"the function could not tell"}
    assert any("verdicts are unknown, more than verifier.alarm_unknown_share = 0.02" in told for told in notes.told)
    selected = {d.subject_id for d in load(folder, SelectionDecision, iteration=1) if d.selected}
    masked = {r.rollout_id for r in load(folder, Rollout, iteration=1)} & of_training
    assert masked
    assert selected
    assert not selected & masked

    flag.touch()
    before = verified_commits(folder)
    done = CliRunner().invoke(app, ["verify", "--run", str(folder), "--again"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "iteration 1: " in done.output
    later = [v for v in load(folder, Verification) if v.again is not None]
    assert [v for v in load(folder, Verification) if v.again is None] == first, "old rows are as they were"
    assert {v.again for v in later} == {1}
    old = {v.subject_id for v in first if v.verification_id in unknown}
    assert {v.subject_id for v in later} == old
    assert all(v.outcome is not VerificationOutcome.UNKNOWN for v in later)
    commits = verified_commits(folder)
    assert commits[: len(before)] == before
    assert {c.stage for c in commits[len(before) :]} == {"verify-again-1"}
    counted = query(folder, "SELECT outcome, count(*) AS n FROM verdict GROUP BY ALL").set_index("outcome")["n"]
    assert counted["unknown"] == len(unknown), "what training saw"
    assert query(folder, "SELECT * FROM newest_verdict WHERE outcome = 'unknown'").empty
    again = CliRunner().invoke(app, ["verify", "--run", str(folder), "--again"], catch_exceptions=False)
    assert verified_commits(folder) == commits, again.output

    # The run goes on, and is what it was.
    train(config.model_copy(update={"run": config.run.model_copy(update={"iterations": 2})}))
    assert audit(folder).faults == []
    flag.unlink()
    assert replay(folder, 1).differences == []
    assert {v.subject_kind for v in load(folder, Verification, again=1)} <= {
        SubjectKind.ROLLOUT,
        SubjectKind.CONSTRUCTED,
    }


def test_eight_tasks_at_once_get_the_verdicts_of_one() -> None:
    golds = ["x+1", r"\frac{\sqrt{2}}{2}", "12", r"\{1, 2\}", "(1, 2)", r"2\pi"]
    answers = ["1+x", r"\frac{1}{\sqrt{2}}", "12.0", r"\{2,1\}", "(2,1)", r"\pi + \pi", "x+2", "no"]
    questions = [Question("", gold, f"\\boxed{{{answer}}}") for gold in golds for answer in answers]
    alone, together = (MathVerifier(VerifierConfig(), workers=2) for _ in range(2))

    @task
    def verify(part: int) -> list[VerificationOutcome]:
        return [verdict.outcome for verdict in together.verify(questions[part::8])]

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=8))  # type: ignore[arg-type]
    def judge() -> list[list[VerificationOutcome]]:
        return [future.result() for future in verify.map(range(8))]

    try:
        expected = [verdict.outcome for verdict in alone.verify(questions)]
        found = judge()
    finally:
        alone.close()
        together.close()
    assert [found[i % 8][i // 8] for i in range(len(questions))] == expected
    assert {VerificationOutcome.CORRECT, VerificationOutcome.WRONG} == set(expected)
