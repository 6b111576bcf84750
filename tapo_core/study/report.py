"""The section of a study in its page: between two markers, made again from the record by each report."""

from collections.abc import Sequence
from pathlib import Path

from tapo_core.comparison import CONFIDENCE, RESAMPLES
from tapo_core.errors import UserError
from tapo_core.files import publish_text
from tapo_core.study.config import StudyConfig
from tapo_core.study.figures import draw_figures, drawn_cells, figure_name
from tapo_core.study.plan import PlannedRun
from tapo_core.study.record import Record, read_record
from tapo_core.study.tables import Readings, comparison_tables, variant_tables
from tapo_core.text import decoded


def write_report(study: StudyConfig, runs: Sequence[PlannedRun]) -> Path:
    """Draw the figures and replace the study's section in its page, which is made if it is the study's own.

    Raises:
        DataError: the record cannot be read. UserError: the page has no place for the section.
    """
    page = study.page
    if study.study.page is None and not page.exists():
        publish_text(page, [f"# Study {study.study.name}", "", *_markers(study)])
    before, _, after = split_page(page, study)
    record = read_record(study.record)
    draw_figures(study, part_of(study, runs, record), images_folder(study))
    text = f"{before}{section(study, runs, record)}{after}"
    publish_text(page, text.removesuffix("\n").split("\n"))
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
        text = decoded(page.read_bytes())
    except OSError as error:
        raise UserError(f"{page}: cannot be read ({error.strerror}); study.page has to exist") from error
    except ValueError as error:
        raise UserError(f"{page}: {error}") from error
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise UserError(
            f"{page}: the lines {begin} and {end} have to be in it once, in this order; put them where the section goes"
        )
    start, stop = text.index(begin) + len(begin), text.index(end)
    return text[:start], text[start:stop], text[stop:]


def part_of(study: StudyConfig, runs: Sequence[PlannedRun], record: Record) -> Record:
    """The runs of a record that are those of the study as it is now."""
    planned = {run.name: run.settings_digest for run in runs}
    return record.only({row["run"] for row in record.runs if planned.get(row["run"]) == row["settings_digest"]})


def section(study: StudyConfig, runs: Sequence[PlannedRun], whole: Record) -> str:
    """The text between the markers, of a study with these runs and this record."""
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
        parts += [
            _intro(study, record, len(runs)),
            *variant_tables(study, readings),
            *comparison_tables(study, readings),
        ]
        parts += _pictures(study, record)
    return "\n" + "\n\n".join(parts) + "\n"


def _intro(study: StudyConfig, record: Record, n_planned: int) -> str:
    seeds = ", ".join(map(str, sorted({row["seed"] for row in record.runs})))
    n_problems = len({row["problem"] for row in record.problems})
    samples = sorted({row["n"] for row in record.problems})
    minutes = sum(row["minutes"] for row in record.runs)
    told = [
        f"{len(record.runs)} of {n_planned} runs, seeds {seeds}, {n_problems} held-out problems with "
        f"{' to '.join(str(n) for n in dict.fromkeys((samples[0], samples[-1])))} samples each; {minutes:,.0f} minutes of "
        "training, runs one after the other.",
        f"In percent; brackets are {CONFIDENCE:.0%} intervals by bootstrap over seeds and problems ({RESAMPLES:,} resamples), "
        "with one seed over problems only.",
        "p: from exchanging the two runs of a seed, so never below 2 / 2^seeds; with one seed, from exchanging their problems.",
        "DSR: share of the correct samples that do not reflect; ERR: share of the reflecting samples that are correct.",
    ]
    if any("tokens" in pairing.at for pairing in study.comparisons):
        told.append(
            "At equal generated tokens the second variant is read at its first evaluation by which it had generated as many "
            "tokens for training (rollouts, constructions, located errors) as the first had after its last step: it may have had "
            "a few more, never fewer."
        )
    return "\n".join(told)


def _pictures(study: StudyConfig, record: Record) -> list[str]:
    folder = images_folder(study).relative_to(study.page.parent)
    return [
        f"![Training curves: {study.cell_title(cell)}]({folder / figure_name(study, cell)})"
        for cell in drawn_cells(study, record)
    ]
