"""``tapo data``: what a configuration's data sets hold, and which training queries are in a benchmark. Writes nothing."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas
import typer

from tapo_core.cli.formats import TableFormat
from tapo_core.cli.show import print_table, printable
from tapo_core.config import NANO, TapoConfig
from tapo_core.data import Inputs, check_golds, check_lengths, load_inputs, refusal, sources
from tapo_core.decontamination import Overlap, find_overlaps, find_repeats
from tapo_core.engines.environment import prepare_environment
from tapo_core.errors import DataError, UserError
from tapo_core.nano.prepare import write_problems
from tapo_core.records import OverlapKind, Query
from tapo_core.text import one_line, shortened
from tapo_core.verification.registry import make_verifier

#: Pairs that are printed, and characters of each text.
_PAIRS, _WIDTH = 20, 100


def print_data(config: TapoConfig) -> None:
    """Load everything that a configuration names and print a table of it, the bad rows, and the duplicates.

    The problems of the built-in task are made anew, without its model, which takes minutes. Of a model only the tokenizer is
    loaded.

    Raises:
        DataError, ConfigError: see `data.load_queries`, `data.check_lengths` and `families.generate_problems`. Where bad rows
            are not to be left out, they are listed first.
    """
    refused = not config.data.skip_bad_rows
    config = config.model_copy(update={"data": config.data.model_copy(update={"skip_bad_rows": True})})
    train, held_out = config.data.train, config.data.held_out
    with tempfile.TemporaryDirectory() as folder:
        if NANO in (train, held_out):
            made = write_problems(config.nano, Path(folder))
            train, held_out = (
                str(path) if name == NANO else name for name, path in zip((train, held_out), made, strict=True)
            )
        inputs = load_inputs(config, train, held_out, run_id="")
        inputs = _with_fitting_prompts(config, inputs, Path(folder))
    verifier = make_verifier(config.verifier, config.limits.verifier_workers)
    try:
        inputs = check_golds(inputs, verifier, skip=True)
    finally:
        verifier.close()
    paths = {split: source.path for split, source in sources(config, config.data.train, config.data.held_out).items()}
    _print_sources(inputs, paths, "bad" if refused else "skipped")
    by_split: dict[bool, list[Query]] = {True: [], False: []}
    for query in inputs.queries:
        by_split[query.split == "train"].append(query)
    overlaps = find_overlaps(by_split[True], by_split[False], config.data.instruction)
    _print_overlaps(overlaps, list(paths)[1:])
    repeats = find_repeats(by_split[True], config.data.instruction)
    typer.echo(f"Training queries that are duplicates of an earlier one: {_counted(repeats)}")
    for split, bad in inputs.skipped.items():
        if bad and refused:
            raise refusal(bad, split)


def _with_fitting_prompts(config: TapoConfig, inputs: Inputs, folder: Path) -> Inputs:
    """The inputs without the rows that are too long. A line says so if there is no tokenizer to count tokens with.

    Raises:
        DataError: see `data.check_lengths`.
    """
    prepare_environment(vllm=False)
    from tapo_core.chat import Chat
    from tapo_core.nano.model import model_config
    from tapo_core.nano.tokenizer import build_tokenizer

    model = Path(config.model.path)
    try:
        if config.model.path == NANO:
            model = folder / "tokenizer"
            model_config(config.nano).save_pretrained(model)
            build_tokenizer().save_pretrained(model)
        chat = Chat(model, config.model.chat_template_kwargs)
        return check_lengths(inputs, lambda text: len(chat.prompt(text)), config.sampler, skip=True)
    except DataError:
        raise
    except UserError as error:
        typer.echo(f"The lengths of the prompts were not checked: {printable(str(error))}")
        return inputs


def _print_sources(inputs: Inputs, paths: dict[str, str], bad_rows: str) -> None:
    """`bad_rows`: what becomes of bad rows in a run, in one word."""
    rows = []
    for split, path in paths.items():
        queries = [query for query in inputs.queries if query.split == split]
        rows.append(
            {
                "split": split,
                "from": path,
                "queries": len(queries),
                bad_rows: len(inputs.skipped[split]),
                "families": _distribution(query.family for query in queries),
                "levels": _distribution(query.level for query in queries),
            }
        )
    print_table(pandas.DataFrame(rows), TableFormat.TABLE)
    for split, bad in inputs.skipped.items():
        for message in bad[:_PAIRS]:
            typer.echo(f"{bad_rows} in {split}: {printable(message)}")
        if len(bad) > _PAIRS:
            typer.echo(f"... and {len(bad) - _PAIRS} more in {split}")


def _distribution(values: Iterable[str | int | None]) -> str:
    """How often each value occurs: "1: 20, 2: 30"; the eight most frequent ones."""
    counts = Counter(value for value in values if value is not None)
    most = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    shown = ", ".join(f"{value}: {count}" for value, count in sorted(most[:8], key=lambda item: str(item[0])))
    return f"{shown}, {len(most) - 8} others" if len(most) > 8 else shown


def _counted(overlaps: Sequence[Overlap]) -> str:
    kinds = Counter(overlap.kind for overlap in overlaps)
    return ", ".join(f"{kinds[kind]} {kind.value}" for kind in OverlapKind)


def _print_overlaps(overlaps: Sequence[Overlap], splits: Sequence[str]) -> None:
    queries = len({overlap.query.query_id for overlap in overlaps})
    typer.echo(f"Training queries that are duplicates of a held-out query or a benchmark's problem: {queries}")
    for split in splits:
        typer.echo(f"  {split}: {_counted([overlap for overlap in overlaps if overlap.other.split == split])}")
    for overlap in overlaps[:_PAIRS]:
        typer.echo(f"{overlap.kind.value} {overlap.similarity:.1f}")
        for query in (overlap.query, overlap.other):
            typer.echo(f"  {query.source}: {printable(shortened(one_line(query.text), _WIDTH))}")
    if len(overlaps) > _PAIRS:
        typer.echo(f"... and {len(overlaps) - _PAIRS} more pairs")
