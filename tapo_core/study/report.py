"""The section of a study in its page: between two markers, made again from the record by each report."""

from collections.abc import Sequence
from pathlib import Path

from tapo_core.comparison import CONFIDENCE, RESAMPLES
from tapo_core.errors import DataError, UserError
from tapo_core.files import publish_text
from tapo_core.study.config import StudyConfig
from tapo_core.study.figures import draw_figures
from tapo_core.study.plan import PlannedRun
from tapo_core.study.record import Record, read_record
from tapo_core.study.tables import Readings, comparison_tables, variant_tables


def write_report(study: StudyConfig, runs: Sequence[PlannedRun]) -> Path:
    """Draw the figures and replace the study's section in its page, which is made if it is the study's own.

    Raises:
        DataError: the record cannot be read. UserError: the page has no place for the section.
    """
    page = study.page
    if study.study.page is None and not page.exists():
        publish_text(page, [f"# Study {study.study.name}", "", *_markers(study)])
    found = split_page(page, study)
    record = part_of(study, runs, read_record(study.record))
    draw_figures(study, record, images_folder(study))
    before, _, after = found
    publish_text(page, f"{before}{section(study, runs)}{after}".splitlines())
    return page


def images_folder(study: StudyConfig) -> Path:
    """Where the figures are."""
    return study.page.parent / "images"


def _markers(study: StudyConfig) -> tuple[str, str]:
    return f"<!-- study:{study.study.name} begin -->", f"<!-- study:{study.study.name} end -->"


def split_page(page: Path, study: StudyConfig) -> tuple[str, str, str]:
    """The page up to and with the first marker, the section between, and the rest.

    Raises:
        UserError: it cannot be read, or does not have each marker once, in order.
    """
    begin, end = _markers(study)
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{page}: cannot be read ({error.strerror}); study.page has to exist") from error
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise UserError(f"{page}: the lines {begin} and {end} have to be in it once, in this order; put them where the section goes")
    start, stop = text.index(begin) + len(begin), text.index(end)
    return text[:start], text[start:stop], text[stop:]


def part_of(study: StudyConfig, runs: Sequence[PlannedRun], record: Record) -> Record:
    """The runs of a record that are those of the study as it is now."""
    planned = {run.name: run.settings_digest for run in runs}
    rows = record.runs[["run", "settings_digest"]].itertuples(index=False)
    return record.only({row.run for row in rows if planned.get(row.run) == row.settings_digest})


def section(study: StudyConfig, runs: Sequence[PlannedRun]) -> str:
    """The text between the markers."""
    whole = read_record(study.record)
    record = part_of(study, runs, whole)
    n_runs, n_other = len(record.runs), len(whole.runs) - len(record.runs)
    parts = []
    if n_other:
        parts.append(
            f"{n_other} runs of the record are left out: the study as it is now has no such run, or has it with other settings."
        )
    if n_runs == 0:
        parts.append("No run of this study is in its record yet.")
    else:
        readings = Readings(record)
        parts += [_intro(study, record, len(runs))]
        parts += [*comparison_tables(study, readings), *variant_tables(study, readings)]
        parts += _pictures(study, record)
    return "\n" + "\n\n".join(parts) + "\n"


def _intro(study: StudyConfig, record: Record, n_planned: int) -> str:
    seeds, problems = record.runs.seed.nunique(), record.problems
    n_problems = problems.problem.nunique()
    sampled = sorted(set(problems.n))
    told = f"{len(record.runs)} of {n_planned} runs, {seeds} seeds, {n_problems} held-out problems"
    told += f" with {' to '.join(map(str, dict.fromkeys((sampled[0], sampled[-1]))))} samples each. "
    told += (
        f"Brackets are {CONFIDENCE:.0%} intervals by bootstrap over seeds and problems ({RESAMPLES:,} resamples); with one seed "
        "they cover problems only. p is from exchanging the two runs of a seed, and cannot be below 2 / 2^seeds. DSR is the share of "
        "correct samples that do not reflect, ERR the share of reflecting samples that are correct; for both, whole seeds and "
        "problems are resampled as well. "
    )
    if any("tokens" in pairing.at for pairing in study.comparisons):
        told += (
            "At equal generated tokens the second variant is read at its first evaluation by which it had generated as many tokens "
            "for training (rollouts, constructions, located errors) as the first had after its last step; where its run ended "
            "before, it says so. "
        )
    minutes = record.runs.minutes.sum()
    return told + f"The runs took {minutes:,.0f} minutes, one after the other."


def _pictures(study: StudyConfig, record: Record) -> list[str]:
    cells = []
    for family in study.families:
        for policy in study.policies:
            runs = record.runs[(record.runs.family == family) & (record.runs.policy == policy)]
            if runs.variant.isin(study.study.curves).any():
                file = images_folder(study) / f"study-{study.study.name}-{family}-{policy}.svg"
                title = f"{study.title('families', family)}, {study.title('policies', policy)}"
                cells.append(f"![Training curves: {title}]({file.relative_to(study.page.parent)})")
    return cells
