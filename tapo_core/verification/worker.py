"""A worker of the symbolic tier: a process of its own that lets math-verify compare one pair after another.

It is started fresh (nothing of its parent is in it), works in its main thread, and has confined itself before it reads the first
text: no more memory than it was given, no network, no program, no file written. It may be killed at any time.

Lines of JSON on standard input: ``{"prediction": text, "gold": text, "boxed": bool, "cpu_seconds": number}``; boxed: the
prediction is the answer itself, else a text that has it somewhere at its end. Lines on standard output: ``{"ready": true}`` once,
then for each question ``{"outcome": "correct" | "wrong" | "no_answer" | "unknown", "answer": text, "reason": text}``.
"""

import itertools
import json
import logging
import os
import sys
from typing import Any

from tapo_core.verification.answers import is_bare
from tapo_core.verification.sandbox import confine, cpu_limit

#: Characters of an answer that go back.
_MOST = 500
#: The kernel ends a worker that nobody ends: its parent's limit comes first.
_GRACE = 5.0
#: Whoever has mapped that share of what it may has run into the limit, or was about to.
_ALMOST = 0.9


def main() -> None:
    """Serve until standard input ends. Arguments: bytes of memory."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever prints does not print into the replies
    logging.disable()
    judge("1", "$\\frac{1}{2}$", boxed=True)  # everything that is imported late is imported now
    judge("it is 2", "2", boxed=False)
    memory = int(sys.argv[1])
    confine(memory, files=True)  # sympy and math-verify import as they go
    _reply(replies, {"ready": True})
    for line in sys.stdin:
        question = json.loads(line)
        cpu_limit(question["cpu_seconds"] + _GRACE)
        try:
            answer = judge(question["prediction"], question["gold"], question["boxed"])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no verdict
            answer = {"outcome": "unknown", "answer": None, "reason": f"error: {type(error).__name__}"}
        # math-verify takes an error in a comparison, also one for lack of memory, for a difference.
        if answer["outcome"] != "correct" and _peak_bytes() > _ALMOST * memory:
            answer = {"outcome": "unknown", "answer": None, "reason": "memory"}
        _reply(replies, answer)
        if answer.get("reason") == "memory":
            return  # who knows what is half done in here


def _peak_bytes() -> int:
    """The most memory that this process has mapped."""
    with open("/proc/self/status", encoding="ascii") as status:
        kibibytes = next(line.split()[1] for line in status if line.startswith("VmPeak:"))
    return int(kibibytes) << 10


def _reply(replies: Any, answer: dict[str, Any]) -> None:
    replies.write(json.dumps(answer) + "\n")
    replies.flush()


def judge(prediction: str, gold: str, boxed: bool) -> dict[str, Any]:
    """What math-verify says of one pair.

    Raises:
        Exception: of any kind, from parsing or comparing.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    expected = _gold(gold)
    if not expected:
        return {"outcome": "unknown", "answer": None, "reason": "the gold answer cannot be read"}
    if boxed:
        config = [LatexExtractionConfig(boxed_match_priority=0)]
        found = parse(f"$\\boxed{{{prediction}}}$", config, parsing_timeout=None, raise_on_error=True)
    else:
        found = parse(prediction, parsing_timeout=None, raise_on_error=True)
    if not found:
        return {"outcome": "wrong" if boxed else "no_answer", "answer": None}
    answer = next((part[:_MOST] for part in found if isinstance(part, str)), None)
    failure = None
    for one, other in itertools.product(expected, found):
        try:
            if verify(one, other, timeout_seconds=None, raise_on_error=True):
                return {"outcome": "correct", "answer": answer}
        except Exception as error:  # noqa: BLE001 - it leaves the other readings their say
            failure = error
    if failure is not None:
        raise failure
    return {"outcome": "wrong", "answer": answer}


def _gold(gold: str) -> list[Any]:
    from math_verify import parse

    if is_bare(gold):
        gold = f"${gold}$"
    found: list[Any] = parse(gold, parsing_timeout=None, raise_on_error=True)
    return found
