"""The small run with a tokenizer, and texts that went through the real parser and became real tokens.

`mark` is put into every text that a person, a model or a data set can write: to look for, or to attack with.
"""

from functools import cache
from pathlib import Path
from typing import Any

from small_run import (
    CORRECTION_ID,
    ROLLOUTS,
    Stage,
    changed,
    commit,
    stages,
)
from transformers import PreTrainedTokenizerFast

from tapo_core.config import CorrectionConfig
from tapo_core.correction import Construction, constructed_tokens, parse_construction
from tapo_core.nano.tokenizer import END_ID, build_tokenizer
from tapo_core.records import (
    Correction,
    ErrorLocation,
    FinishReason,
    ParseOutcome,
    PolicyVersion,
    Query,
    Rollout,
    RolloutTokens,
    TokenRole,
    TokenWeight,
    Verification,
)

MODEL = "model"  #: folder of the tokenizer, in the run's


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def encode(text: str) -> list[int]:
    return list(tokenizer().encode(text, add_special_tokens=False))


def decode(token_ids: Any) -> str:
    return str(tokenizer().decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


class Texts:
    """What was written in the run."""

    def __init__(self, mark: str = "") -> None:
        self.query = f"Start with 7. Add 12. {mark}".strip()
        self.wrong = f"7 + 12 = 18 {mark}".strip() + "\nAnswer: \\boxed{18}"
        self.reference = f"7 + 12 = 19 {mark}".strip() + "\nAnswer: \\boxed{19}"
        self.analysis = f"Line 1 is wrong. {mark}".strip()
        self.raw_output = (
            f"<analysis>{self.analysis}</analysis>\n<reconstruction>{self.wrong.splitlines()[0]}\n"
            f"Wait, 7 + 12 is not 18. {mark}".strip()
            + f"\n7 + 12 = 19 {mark}\nAnswer: \\boxed{{19}}</reconstruction>"
        )
        self.construction: Construction = parse_construction(
            self.raw_output, FinishReason.STOP, self.wrong, self.reference, CorrectionConfig(max_copied_words=0)
        )
        assert self.construction.outcome is ParseOutcome.PARSED, self.construction
        assert self.construction.text is not None
        self.tokens, self.n_kept = constructed_tokens(
            self.construction.text, [*encode(self.wrong), END_ID], encode, decode, END_ID
        )
        n = len(self.tokens)
        self.weights = [0.0 if i == 0 else 0.01 + 10 * i / n for i in range(n)]
        self.logprobs = [-0.5 - i / 8 for i in range(n)]
        self.entropies = [0.25 + i / 16 for i in range(n)]


def _text_of(texts: Texts, rollout: Rollout, mark: str) -> str:
    known = {ROLLOUTS[0]: texts.reference, ROLLOUTS[2]: texts.wrong}
    return known.get(rollout.rollout_id, f"{rollout.text} {mark}".strip())


def _traced(record: Any, texts: Texts, mark: str, rollouts: dict[str, str]) -> Any:
    match record:
        case PolicyVersion(iteration=0):
            return changed(record, checkpoint_path=MODEL)
        case Query():
            return changed(record, text=texts.query, source=f"train.jsonl:1 {mark}".strip())
        case Rollout():
            rollouts[record.rollout_id] = _text_of(texts, record, mark)
            return changed(record, text=rollouts[record.rollout_id])
        case RolloutTokens(role=TokenRole.ROLLOUT):
            ids = [*encode(rollouts[record.subject_id]), END_ID]
            return changed(record, token_ids_T=ids, logprobs_T=[-0.125 - i / 64 for i in range(len(ids))])
        case RolloutTokens(role=TokenRole.CORRECTION):
            ids = [*encode(texts.raw_output), END_ID]
            return changed(record, token_ids_T=ids, logprobs_T=[-0.25] * len(ids))
        case RolloutTokens():
            return changed(record, token_ids_T=texts.tokens)
        case ErrorLocation():
            end = len(texts.wrong.splitlines()[0])
            return changed(record, char_end=end, evidence=f"{record.evidence} {mark}".strip())
        case Verification():
            return changed(record, extracted_answer=f"{record.extracted_answer} {mark}".strip())
        case Correction():
            made = texts.construction
            return changed(
                record,
                raw_output=texts.raw_output,
                analysis=made.analysis,
                prefix_steps=made.prefix_steps,
                prefix_char_end=made.prefix_char_end,
                prefix_token_end=texts.n_kept,
                match_score=made.match_score,
                diagnosis=made.diagnosis,
                correction=made.correction,
                constructed_text=made.text,
            )
        case TokenWeight(subject_id=subject_id) if subject_id == CORRECTION_ID:
            return changed(record, weights_T=texts.weights, logprobs_T=texts.logprobs, entropies_T=texts.entropies)
        case _:
            return record


def build_traced_run(folder: Path, mark: str = "") -> Texts:
    """Write the run, and its tokenizer."""
    texts = Texts(mark)
    rollouts: dict[str, str] = {}
    for stage in stages()[:6]:
        records = [_traced(record, texts, mark, rollouts) for record in stage.records]
        commit(folder, Stage(stage.iteration, stage.stage, records))
    tokenizer().save_pretrained(str(folder / MODEL))
    return texts
