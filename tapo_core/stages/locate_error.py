"""Stage 3: locate the first error of every wrong rollout that is to be corrected."""

from tapo_core.error_location import METHODS, Location
from tapo_core.ids import deterministic_id
from tapo_core.records import ErrorLocation, Rollout, RolloutTokens, TokenRole
from tapo_core.session import Session
from tapo_core.stages.groups import candidates, load_groups
from tapo_core.steps import split_steps, token_end_of
from tapo_core.store import StageCommit

STAGE = "locate_error"


def locate_error(session: Session, iteration: int, input_digest: str) -> StageCommit:
    """One `ErrorLocation` for each candidate and configured method, with evidence and spans."""
    done = session.done(STAGE, iteration, input_digest)
    if done is not None:
        return done
    tokens = {row.subject_id: row.token_ids_T for row in session.load(RolloutTokens, iteration, role=TokenRole.ROLLOUT)}
    locations = []
    for group in load_groups(session, iteration):
        for rollout in candidates(session, iteration, group):
            for method in session.config.locate_error.methods:
                found = METHODS[method](split_steps(rollout.text))
                locations.append(error_location(session, rollout, tokens[rollout.rollout_id], found))
    manifest = {
        "n_candidates": len({x.rollout_id for x in locations}),
        "n_located": sum(x.step is not None for x in locations),
    }
    return session.commit(STAGE, iteration, input_digest, manifest, locations)


def error_location(session: Session, rollout: Rollout, token_ids_T: list[int], found: Location) -> ErrorLocation:
    """A location with its character and token spans."""
    steps = split_steps(rollout.text)
    chars: tuple[int | None, int | None] = (None, None)
    tokens: tuple[int | None, int | None] = (None, None)
    if found.step is not None:
        step = steps[found.step]
        chars = (step.char_start, step.char_end)
        tokens = (
            token_end_of(token_ids_T, rollout.text, step.char_start, session.chat.decode),
            token_end_of(token_ids_T, rollout.text, step.char_end, session.chat.decode),
        )
    return ErrorLocation(
        error_location_id=deterministic_id("error_location", rollout=rollout.rollout_id, method=found.method),
        run_id=session.run_id,
        iteration=rollout.iteration,
        rollout_id=rollout.rollout_id,
        method=found.method,
        step=found.step,
        n_steps=len(steps),
        char_start=chars[0],
        char_end=chars[1],
        token_start=tokens[0],
        token_end=tokens[1],
        evidence=found.evidence,
    )
