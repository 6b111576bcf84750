"""What an operator reads about an iteration: its numbers, the curve so far, three constructed trajectories, and where more is."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from tapo_core.keeping import REPORT
from tapo_core.records import Correction, ParseOutcome, SubjectKind, VerificationOutcome
from tapo_core.session import Session
from tapo_core.stages.verify import first_verdicts
from tapo_core.store.iteration_counts import IterationCounts, iteration_counts
from tapo_core.store.snapshot import snapshot_commits
from tapo_core.text import fenced, markdown_table
from tapo_core.viewer.urls import ADDRESS, iteration_url

N_SHOWN = 3  #: constructed trajectories
_N_CURVE = 60  #: iterations that the curve has at most, the newest
_BARS = "▁▂▃▄▅▆▇█"

_Judged = tuple[Correction, VerificationOutcome]  #: a parsed construction and the verdict on its trajectory


def iteration_report(session: Session, iteration: int) -> str:
    """Markdown about a complete iteration. Counts come from the manifests of its commits, texts from its rows.

    Raises:
        UserError, IntegrityError: the store cannot be read.
    """
    commits = snapshot_commits(session.folder)
    counts = {one.iteration: one for one in iteration_counts(commits)}
    parsed = [c for c in session.load(Correction, iteration) if c.parse_outcome is ParseOutcome.PARSED]
    verdicts = {v.subject_id: v for v in first_verdicts(session, iteration, SubjectKind.CONSTRUCTED)}
    judged = [(correction, verdicts[correction.correction_id].outcome) for correction in parsed]
    parts = [
        f"Iteration {iteration} of {session.config.run.iterations} of run {session.config.run.name}",
        markdown_table(["", ""], _numbers(counts, iteration, Counter(outcome for _, outcome in judged))),
        _curve(counts, iteration),
        *(_shown(session, n, *chosen) for n, chosen in enumerate(_in_turn(judged)[:N_SHOWN], start=1)),
        _where_more_is(session, iteration),
    ]
    return "\n\n".join(parts)


def _numbers(
    counts: Mapping[int, IterationCounts], iteration: int, constructed: Mapping[VerificationOutcome, int]
) -> list[tuple[str, str]]:
    """Name and value of each number that the iteration has. `constructed`: verdicts on its constructed trajectories."""
    one = counts[iteration]
    update = one.manifest("update_policy")
    queries = sum(count for name, count in one.decisions.items() if name.startswith("query/"))
    found = [
        ("accuracy of the training rollouts", "unknown" if one.accuracy is None else f"{one.accuracy.value:.1%}"),
        ("verdicts", ", ".join(f"{count} {outcome}" for outcome, count in one.verdicts.items())),
        ("eligible queries", f"{one.decisions.get('query/eligible', 0)} of {queries}"),
    ]
    if one.parses:
        parsed, n = one.parses.get("parsed", 0), sum(one.parses.values())
        told = ", ".join(f"{count} {outcome}" for outcome, count in one.parses.items() if outcome != "parsed")
        found.append(("constructions that parsed", f"{parsed} of {n} ({parsed / n:.1%}){'; ' if told else ''}{told}"))
        found.append(("verdicts on these", ", ".join(f"{n} {outcome}" for outcome, n in sorted(constructed.items()))))
    trained = f"{update.get('n_original', 0)} original, {update.get('n_constructed', 0)} constructed"
    found.append(("trained on", f"{trained}, in {update.get('n_steps', 0)} optimizer steps"))
    measured = update.get("sampler_mismatch")
    if measured:
        found.append(
            (
                "sampler against trainer",
                f"{measured['mean']:.1e} nats a token apart on average, {measured['max']:.1e} at most; effective sample size "
                f"{measured['ess_token']:.1%} of the tokens, {measured['ess_sequence']:.1%} of the rollouts",
            )
        )
    found += [("ALARM", alarm) for alarm in one.alarms]
    evaluated = [
        (i, c.evaluated["held_out"]) for i, c in counts.items() if i <= iteration and "held_out" in c.evaluated
    ]
    if evaluated:
        (first, before), (last, now) = evaluated[0], evaluated[-1]
        gain = f"; {now.value - before.value:+.1%} since version {first}" if last > first else ""
        found.append((f"held-out pass@1 of version {last}", f"{now.value:.1%} ({now.low:.1%} to {now.high:.1%}){gain}"))
    return found


def _curve(counts: Mapping[int, IterationCounts], iteration: int) -> str:
    """Accuracy of the training rollouts up to an iteration, as bars from 0 to 100%."""
    shares = [
        counts[i].accuracy if i in counts else None for i in range(max(1, iteration - _N_CURVE + 1), iteration + 1)
    ]
    values = [None if share is None else share.value for share in shares]
    bars = "".join(" " if value is None else _BARS[min(7, int(8 * value))] for value in values)
    first = iteration - len(values) + 1
    return (
        f"Accuracy of the training rollouts, iterations {first} to {iteration} (bars from 0 to 100%):\n\n{fenced(bars)}"
    )


def _in_turn(judged: Sequence[_Judged]) -> list[_Judged]:
    """One of each verdict, then the next of each; within a verdict in the order of ids, which is as good as random."""
    groups: dict[VerificationOutcome, list[_Judged]] = {}
    for correction, outcome in sorted(judged, key=lambda one: (one[1], one[0].correction_id)):
        groups.setdefault(outcome, []).append((correction, outcome))
    return [one for turn in zip_longest(*groups.values()) for one in turn if one is not None]


def _shown(session: Session, number: int, correction: Correction, outcome: VerificationOutcome) -> str:
    text = correction.constructed_text or ""
    kept = text[: correction.prefix_char_end or 0]
    parts: Sequence[tuple[str, str | None]] = (
        ("Query", session.queries[correction.query_id].text),
        ("Kept of the wrong rollout, up to its error", kept),
        ("Diagnosis", correction.diagnosis),
        ("Correction", correction.correction),
    )
    shown = "\n\n".join(f"{name}:\n\n{fenced(part)}" for name, part in parts if part)
    return f"## Constructed trajectory {number}: {outcome}\n\nId {correction.correction_id}\n\n{shown}"


def _where_more_is(session: Session, iteration: int) -> str:
    run = shlex.quote(str(session.folder))
    commands = [
        f'tapo sql "SELECT * FROM iteration_summary WHERE iteration = {iteration}" --run {run}',
        f'tapo sql "SELECT * FROM why_in_batch WHERE iteration = {iteration} LIMIT 20" --run {run}',
        f"tapo lineage ID --run {run}",
        f"tapo view {run}",
    ]
    page = iteration_url(session.folder.resolve().name, iteration)
    more = (
        f"More (any id of this page has a lineage; `tapo view` serves pages, and has this iteration at "
        f"[{page}]({ADDRESS}{page})):\n\n" + fenced("\n".join(commands))
    )
    if iteration == session.config.run.iterations:
        more += f"\n\nThe report on the whole run, one HTML file:\n\n{fenced(str((session.folder / REPORT).resolve()))}"
    return more
