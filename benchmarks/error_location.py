"""How often each method of error location finds the first wrong step.

    .venv/bin/python benchmarks/error_location.py [FILE.jsonl ...] [--policy CHECKPOINT]

Files hold one attempt a line: steps (list of texts), label (0-based index of the first wrong step, -1 or null if there is none),
and optionally subset. Attempts of the built-in task families are always added: their generator notes its own slips while it
writes, which is the truth that the methods are held against. Attempts without an error are left out.

With --policy (a Hugging Face folder) the built-in attempts are also put to the methods that sample: "policy" with a correct
sibling beside, and "continuation" around what "arithmetic" finds.

Printed for each subset: how many attempts; the share the method flags at all; exact and within-one accuracy over *all* attempts,
an unflagged one counting as a miss; how often a flag bounds the error (the error is at the flagged step or before it); and the
exact accuracy of the best constant step, chosen in hindsight.
"""

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tapo_core.chat import Chat
from tapo_core.config import LocateErrorConfig, SamplerConfig
from tapo_core.engines.environment import prepare_environment
from tapo_core.engines.protocols import PolicyRef, SampleRequest
from tapo_core.error_location import METHODS, Attempt, Location, Means, Question, Reply
from tapo_core.ids import derive_seed
from tapo_core.nano.config import NanoConfig
from tapo_core.nano.examples import Shares, draw_attempt
from tapo_core.nano.families import FAMILIES, get_family
from tapo_core.nano.task import answer_line
from tapo_core.steps import Step, split_steps

Labelled = tuple[Attempt, int]
#: Methods that only read.
_READING = ("arithmetic", "task")


def attempt_of(name: str, steps: Sequence[str], reference: str = "", **query: object) -> Attempt:
    """An attempt whose steps are given, not cut out of a text."""
    text, spans, at = "\n".join(steps), [], 0
    for index, step in enumerate(steps):
        spans.append(Step(index, step, at, at + len(step)))
        at += len(step) + 1
    values = {"problem": "", "gold": "", "family": None, "level": None, **query}
    return Attempt(name=name, text=text, steps=spans, reference=reference, **values)  # type: ignore[arg-type]


def read(path: Path) -> dict[str, list[Labelled]]:
    """The wrong attempts of a file, by subset."""
    found: dict[str, list[Labelled]] = defaultdict(list)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        if row["label"] is not None and row["label"] >= 0:
            found[f"{path.stem}/{row.get('subset', 'all')}"].append(
                (attempt_of(str(number), row["steps"]), row["label"])
            )
    return found


def built_in(n: int) -> dict[str, list[Labelled]]:
    """Wrong attempts of each family as the cold start writes them, withdrawn slips included, beside a right attempt."""
    found: dict[str, list[Labelled]] = defaultdict(list)
    rates = NanoConfig()
    for name in sorted(FAMILIES):
        family, rng = get_family(name), random.Random(0)
        while len(found[f"nano/{name}"]) < n:
            problem = family.sample(rng, 3)
            made = family.attempt(problem, rates.slip_rate, rates.notice_rate, rng)
            if made.steps[-1] == answer_line(problem.answer):
                continue
            reference = draw_attempt(problem, Shares(rates.slip_rate, rates.notice_rate, 0.0), rng, right=True)
            attempt = attempt_of(
                f"{name}/{len(found[f'nano/{name}'])}",
                made.steps,
                "\n".join(reference),
                problem=problem.text,
                gold=problem.answer,
                family=name,
                level=3,
            )
            found[f"nano/{name}"].append((attempt, made.slips[0]))
    return found


def means_with(chat: Chat | None, sampler: object, found: Mapping[str, Location]) -> Means:
    """What the methods may use: nothing, or an engine that holds the policy."""

    def ask(questions: Sequence[Question]) -> list[Reply | None]:
        if chat is None:
            raise RuntimeError("a method that only reads asked the policy")
        requests = [
            SampleRequest(
                list(q.token_ids) if q.message is None else chat.prompt(q.message),
                q.seed,
                q.max_new_tokens,
                q.temperature,
                1.0,
            )
            for q in questions
        ]
        samples = sampler.sample(requests)  # type: ignore[attr-defined]
        return [Reply(chat.decode(sample.token_ids_T), sample.finish_reason) for sample in samples]

    return Means(
        config=LocateErrorConfig(),
        max_new_tokens=64,
        ask=ask,
        seed=lambda attempt, purpose, number: derive_seed(0, 0, purpose, attempt.name, number),
        is_correct=lambda attempt, text: split_steps(text)[-1].text == answer_line(attempt.gold),
        decode=chat.decode if chat else lambda ids: "",
        found=found,
    )


def row(subset: str, method: str, attempts: Sequence[Labelled], locations: Sequence[Location]) -> None:
    """Print one line."""
    constant = Counter(label for _, label in attempts).most_common(1)[0][1] / len(attempts)
    found = [(location.step, label) for location, (_, label) in zip(locations, attempts, strict=True)]
    flags = [(step, label) for step, label in found if step is not None]
    shares = (
        len(flags) / len(found),
        sum(step == label for step, label in flags) / len(found),
        sum(abs(step - label) <= 1 for step, label in flags) / len(found),
        sum(label <= step for step, label in flags) / max(1, len(flags)),
        constant,
    )
    print(f"{subset:44} {method:12} {len(attempts):6d}" + "".join(f"{share:10.1%}" for share in shares), flush=True)


def with_policy(subset: str, attempts: Sequence[Labelled], checkpoint: Path) -> None:
    """The methods that sample, on the built-in attempts."""
    from tapo_core.engines.vllm_sampler import VllmSampler

    chat, sampler = Chat(checkpoint, {}), VllmSampler(SamplerConfig(), "float32")
    sampler.load_policy(PolicyRef("policy", checkpoint))
    asked = [
        Attempt(
            **{name: getattr(attempt, name) for name in attempt.__slots__ if not name.endswith(("ids", "ids_T"))},
            prompt_token_ids=chat.prompt(attempt.problem),
            token_ids_T=chat.encode(attempt.text),
        )
        for attempt, _ in attempts
    ]
    flagged = METHODS["arithmetic"](asked, means_with(None, None, {}))
    found = {a.name: location for a, location in zip(asked, flagged, strict=True) if location.step is not None}
    for method in ("policy", "continuation"):
        row(subset, method, attempts, METHODS[method](asked, means_with(chat, sampler, found)))
    sampler.close()


def main() -> None:
    """Read, locate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--built-in", type=int, default=2000, help="attempts of each built-in family")
    parser.add_argument("--policy", type=Path, help="checkpoint for the methods that sample")
    parser.add_argument("--policy-attempts", type=int, default=200, help="attempts put to the methods that sample")
    parser.add_argument("--policy-families", nargs="*", default=["chain"], help="families that the policy knows")
    arguments = parser.parse_args()
    sets = built_in(arguments.built_in)
    for path in arguments.files:
        sets.update(read(path))
    head = ("flagged", "exact", "within 1", "bounds", "constant")
    print(f"{'subset':44} {'method':12} {'n':>6}" + "".join(f"{name:>10}" for name in head))
    for subset, attempts in sorted(sets.items()):
        for method in _READING:
            if method == "arithmetic" or subset.startswith("nano/"):
                row(subset, method, attempts, METHODS[method]([a for a, _ in attempts], means_with(None, None, {})))
    if arguments.policy is not None:
        prepare_environment()
        for family in arguments.policy_families:
            attempts = sets[f"nano/{family}"][: arguments.policy_attempts]
            with_policy(f"nano/{family} (the first)", attempts, arguments.policy)


if __name__ == "__main__":
    main()
