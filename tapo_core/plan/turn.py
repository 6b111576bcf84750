"""The plan's part about turns: which tokens end one, and what the chat template puts into a prompt."""

from pathlib import Path

from tapo_core.config import NANO, TapoConfig
from tapo_core.errors import UserError
from tapo_core.plan.figure import Figure
from tapo_core.plan.fit import Problem
from tapo_core.plan.shape import ModelShape

#: Of the built-in model, which is not made for a plan: `nano.tokenizer.END` and `END_ID`, which need transformers to import.
NANO_END = "'<|im_end|>' (2)"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def turns(config: TapoConfig, shape: ModelShape) -> tuple[list[Figure], list[Problem]]:
    """What ends a turn of the initial policy, and why a run could not begin with it."""
    longest = f"the longest sequence of the model; sampler.max_model_len = {config.sampler.max_model_len}"
    found = [Figure("positions", shape.positions, "tokens", longest)]
    if config.model.path == NANO:
        return [Figure("ends a turn", NANO_END, "", "the built-in model"), *found], []
    checkpoint = Path(config.model.path)
    if not any((checkpoint / name).is_file() for name in _TOKENIZER):
        return [Figure("ends a turn", None, "", f"there is no tokenizer at {checkpoint}"), *found], []
    from tapo_core.chat import Chat  # transformers takes seconds to import

    try:
        chat = Chat(checkpoint, config.model.chat_template_kwargs)
        stops = chat.stops
    except UserError as error:
        return found, [Problem(str(error), ("model.path", "model.chat_template_kwargs"))]

    def shown(token: int) -> str:
        return f"{chat.transcript([token])!r} ({token})"

    named = "; ".join(f"{place}: {', '.join(map(str, ids))}" for place, ids in stops.found_in.items() if ids)
    closes = "nothing that could be found" if stops.closing is None else repr(stops.closing)
    clock = (
        "the day on which the run begins, in all of its prompts" if chat.reads_clock else "the template asks for none"
    )
    return [
        Figure("ends a turn", ", ".join(map(shown, stops.tokens)), "", named),
        *(Figure("does not end a turn", shown(token), "", why) for token, why in stops.left_out.items()),
        Figure(
            "end-of-turn token", shown(stops.end), "", f"by {stops.end_named_by}; constructed trajectories end with it"
        ),
        Figure("the template closes a turn with", closes, "", "what follows an assistant's message"),
        Figure("date", f"{chat.clock:%Y-%m-%d}" if chat.reads_clock else "none", "", clock),
        *found,
    ], []
