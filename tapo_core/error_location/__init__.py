"""Locating the first error of a wrong rollout: a registry of methods, chosen by `locate_error.methods`.

| method | what it rests on | what it costs |
|---|---|---|
| arithmetic | exact evaluation of the equations in the text; an upper bound | nothing |
| task | the built-in task's own rules; exact | nothing |
| policy | the policy's own answer, by majority | `votes` short samples an attempt |
| continuation | where right continuations stop, near an earlier finding | `continuations` samples a prefix |
"""

from collections.abc import Mapping

from tapo_core.error_location import arithmetic, continuation, policy, task_rules
from tapo_core.error_location.base import Attempt, Location, Means, Method, Question, Reply

METHODS: Mapping[str, Method] = {
    arithmetic.METHOD: arithmetic.locate,
    task_rules.METHOD: task_rules.locate,
    policy.METHOD: policy.locate,
    continuation.METHOD: continuation.locate,
}

__all__ = ["METHODS", "Attempt", "Location", "Means", "Method", "Question", "Reply"]
