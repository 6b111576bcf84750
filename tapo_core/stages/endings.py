"""Whether the policy ends its turns. One that hardly ever does is most often stopped at the wrong tokens: that is an alarm."""

import json
from collections import Counter
from collections.abc import Sequence

from tapo_core.records import FinishReason, Rollout, RolloutTokens
from tapo_core.session import Session
from tapo_core.store import Record

#: Fewer rollouts, or shorter ones, say nothing about how a policy ends its turns.
_LEAST_ROLLOUTS, _LEAST_TOKENS = 8, 32
#: A smaller share of rollouts that ended their turn is an alarm.
_LEAST_ENDED = 0.05


def endings(session: Session, iteration: int, records: Sequence[Record]) -> dict[str, object]:
    """What a stage that samples puts into its manifest: how many of its rollouts ended their turn, and an alarm if hardly any
    did, which is told too.
    """
    rollouts = {record.rollout_id: record for record in records if isinstance(record, Rollout)}
    n_ended = sum(rollout.finish_reason is FinishReason.STOP for rollout in rollouts.values())
    long = min((rollout.max_new_tokens for rollout in rollouts.values()), default=0) >= _LEAST_TOKENS
    if not long or len(rollouts) < _LEAST_ROLLOUTS or n_ended >= _LEAST_ENDED * len(rollouts):
        return {"n_ended": n_ended}
    tokens = [record for record in records if isinstance(record, RolloutTokens) and record.subject_id in rollouts]
    alarm = f"{n_ended} of {len(rollouts)} rollouts ended their turn. {_why(session, tokens)}"
    session.reporter.note(f"ALARM: iteration {iteration}: {alarm} (docs/operate.md)")
    return {"n_ended": n_ended, "alarms": [alarm]}


def _why(session: Session, rollouts: Sequence[RolloutTokens]) -> str:
    """The tokens that end a turn, what the rollouts ran through instead, and what to do."""
    turn, closing = session.turn, session.chat.stops.closing
    texts = zip(json.loads(turn.stop_texts), turn.stop_tokens, strict=True)
    stops = ", ".join(f"{text!r} ({token})" for text, token in texts)
    shown = "nothing" if closing is None else repr(closing)
    through = Counter(token for row in rollouts for token in {*row.token_ids_T} & session.chat.control)
    told = f"A turn ends at {stops}; the chat template closes one with {shown}. "
    if not through:
        return (
            told
            + "The rollouts have no other control token: raise sampler.max_new_tokens, or fine-tune the model first."
        )
    ran = ", ".join(
        f"{session.chat.transcript([token])!r} ({token}) in {n} of them" for token, n in through.most_common(4)
    )
    return (
        f"{told}The rollouts ran on through {ran}. The model seems to end its turns otherwise: add that token to eos_token_id "
        "in generation_config.json of model.path, or give the model the chat template that it was trained with."
    )
