r"""Training queries that are also in a benchmark or in the held-out set, word for word or nearly so.

Two problems are compared by their *words*: the text without case, white space, punctuation and LaTeX decoration, so that
``$\dfrac12$``, ``\frac{1}{2}`` and ``1/2`` are the same three words. A pair is

* **exact** when the words are the same;
* **near** when the numbers are the same, in the same order, the gold answers are the same, and the words have a similarity
  (rapidfuzz ratio, 0-100) of `MIN_SIMILARITY` without being a mere rearrangement; or when the other problem, if it has
  `MIN_QUOTED` words, stands whole in the query.

Problems from one template are no duplicates: "Start with 7. Add 9." is not "Start with 8. Add 9." (other numbers), nor "Start
with 7. Subtract 9." (another answer). Not found: the same problem in other words, in another language, or with other numbers.

Candidates come from an index of word n-grams, so that nobody compares all pairs. Numbers and answer are part of each of its
keys, which keeps the problems of a template apart from the start. Nothing here is random.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rapidfuzz import fuzz

from tapo_core.ids import deterministic_id
from tapo_core.records import OverlapKind, Query, QueryOverlap
from tapo_core.verification.reading import exact_value

#: Least similarity of a near duplicate, 0-100.
MIN_SIMILARITY = 90.0
#: Least words of a problem that is found when it stands whole in a longer one: the n-gram length that is common practice.
MIN_QUOTED = 13
#: Words of a problem and length of the n-grams that it is found by; the first line that it is long enough for. Shorter than
#: `MIN_QUOTED`, because numbers and answer are part of the key: a 13-gram would miss texts with changes here and there. Whatever
#: the length, a text with one word changed still shares an n-gram with the original.
GRAM_LENGTHS = ((16, 5), (4, 2), (0, 1))
#: An n-gram that more problems with the same numbers and answer have is their template, and finds nobody.
MAX_SHARED = 200

_STYLES = "text|textbf|textit|textrm|emph|mbox|mathrm|mathbf|mathit|boldsymbol|operatorname"
_SPACES = "left|right|middle|displaystyle|textstyle|limits|big|bigg|quad|qquad|ldots|dots|cdots"
_DECORATION = re.compile(rf"\\(?:{_STYLES}|{_SPACES})(?![a-z])|\\[^a-z%]|[{{}}$&~_]|-{{2,}}")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:(\d)\s*(\d)|\{\s*(\w+)\s*\}\s*\{\s*(\w+)\s*\})")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?")
_COMMA = re.compile(r"(?<=\d)(?:\{,\}|\\!,|,\\!)(?=\d)")
_THOUSANDS = re.compile(r"(?<![\d.,(\[])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_HYPHEN = re.compile(r"(?<=[^\W\d_]{2})-(?=[^\W\d_]{2})")
_COMMAND = re.compile(r"\\([a-z]+)")
#: One way to write what has several, for LaTeX commands and for single characters.
_COMMANDS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "times": "*", "cdot": "*", "div": "/", "le": "≤", "leq": "≤", "ge": "≥",
    "geq": "≥", "ne": "≠", "neq": "≠", "lt": "<", "gt": ">", "infty": "∞", "angle": "∠", "triangle": "△", "pm": "±",
}  # fmt: skip
_CHARACTERS = str.maketrans(
    {"×": "*", "·": "*", "⋅": "*", "÷": "/", "⁄": "/", "−": "-", "–": "-", "—": " ", "√": " sqrt ", "π": " pi "}
)
#: A number, a word, one Chinese or Japanese character, or one mathematical sign. Everything else is punctuation.
_IDEOGRAPHS = r"\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(
    rf"\d*\.\d+|\d+|[{_IDEOGRAPHS}]|[^\W\d_{_IDEOGRAPHS}]+|[-+*/^=<>%!|()\[\]]|[\u2190-\u22ff\u25a0-\u25ff\u2a00-\u2aff°±]"
)

_Facts = tuple[tuple[str, ...], str]


def words(text: str) -> tuple[str, ...]:
    r"""The words of a problem: what is left of it when case, white space, punctuation and LaTeX decoration are gone.

    >>> words(r"What is $\dfrac12 \times 1{,}000$?")
    ('what', 'is', '1', '/', '2', '*', '1000')
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = _COMMA.sub(",", _DEGREES.sub("°", _FRACTION.sub(r" \1\3/\2\4 ", text)))
    text = _DECORATION.sub(" ", text)
    text = _COMMAND.sub(lambda command: f" {_COMMANDS.get(command[1], command[1])} ", text).translate(_CHARACTERS)
    text = _HYPHEN.sub(" ", _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text))
    return tuple(_WORD.findall(text))


@dataclass(frozen=True, slots=True)
class Overlap:
    """A query and a problem that it is a duplicate of."""

    query: Query
    other: Query
    kind: OverlapKind
    similarity: float  #: rapidfuzz ratio of their words, 0-100; 100 when the one stands whole in the other


@dataclass(frozen=True, slots=True)
class _Problem:
    query: Query
    words: tuple[str, ...]
    text: str  #: the words with spaces between
    numbers: tuple[str, ...]
    answer: str  #: the gold answer: its value, or its words

    @classmethod
    def of(cls, query: Query, instruction: str) -> "_Problem":
        """A query without the instruction that was put after its text."""
        found = words(query.problem(instruction))
        numbers = tuple(word for word in found if word[-1].isdecimal())
        value = exact_value(query.gold)
        return cls(query, found, " ".join(found), numbers, " ".join(words(query.gold)) if value is None else str(value))

    @property
    def facts(self) -> _Facts:
        """What near duplicates have in common to the letter."""
        return self.numbers, self.answer

    def grams(self, length: int) -> Iterator[tuple[str, ...]]:
        """Its n-grams of a length; all of it when it is shorter."""
        for start in range(max(1, len(self.words) - length + 1)):
            yield self.words[start : start + length]


@dataclass(slots=True)
class _Index:
    """Problems, to be found by what they share with another one. All values are places in `problems`."""

    problems: list[_Problem] = field(default_factory=list)
    by_words: dict[tuple[str, ...], list[int]] = field(default_factory=dict)
    by_grams: dict[_Facts, dict[tuple[str, ...], list[int]]] = field(default_factory=dict)
    by_beginning: dict[tuple[str, ...], list[int]] = field(default_factory=dict)

    def add(self, problem: _Problem) -> None:
        """Put a problem into the index."""
        place = len(self.problems)
        self.problems.append(problem)
        self.by_words.setdefault(problem.words, []).append(place)
        length = next(grams for least, grams in GRAM_LENGTHS if len(problem.words) >= least)
        alike = self.by_grams.setdefault(problem.facts, {})
        for gram in set(problem.grams(length)):
            alike.setdefault(gram, []).append(place)
        if len(problem.words) >= MIN_QUOTED:
            self.by_beginning.setdefault(problem.words[:MIN_QUOTED], []).append(place)

    def duplicates_of(self, problem: _Problem) -> list[Overlap]:
        """All problems in the index that a problem is a duplicate of, in the order they were added."""
        places = set(self.by_words.get(problem.words, ()))
        for gram in problem.grams(MIN_QUOTED):
            places.update(self.by_beginning.get(gram, ()))
        alike = self.by_grams.get(problem.facts)
        if alike is not None:
            for _, length in GRAM_LENGTHS:
                for gram in problem.grams(length):
                    having = alike.get(gram, ())
                    if len(having) <= MAX_SHARED:
                        places.update(having)
        found = (_compare(problem, self.problems[place]) for place in sorted(places))
        return [overlap for overlap in found if overlap is not None]


def _compare(problem: _Problem, other: _Problem) -> Overlap | None:
    if problem.words == other.words:
        return Overlap(problem.query, other.query, OverlapKind.EXACT, 100.0)
    if len(other.words) >= MIN_QUOTED and f" {other.text} " in f" {problem.text} ":
        return Overlap(problem.query, other.query, OverlapKind.NEAR, 100.0)
    # "Add 3, then subtract 3" and "subtract 3, then add 3" have the same words.
    if problem.facts != other.facts or sorted(problem.words) == sorted(other.words):
        return None
    similarity = fuzz.ratio(problem.text, other.text, score_cutoff=MIN_SIMILARITY)
    return Overlap(problem.query, other.query, OverlapKind.NEAR, similarity) if similarity else None


def find_overlaps(queries: Sequence[Query], others: Sequence[Query], instruction: str = "") -> list[Overlap]:
    """Every pair of a query and one of the others that are duplicates, ordered as they came.

    `instruction` is what `data.instruction` put after every text; it is left out of the comparison.
    """
    index = _Index()
    for other in others:
        index.add(_Problem.of(other, instruction))
    return [overlap for query in queries for overlap in index.duplicates_of(_Problem.of(query, instruction))]


def find_repeats(queries: Sequence[Query], instruction: str = "") -> list[Overlap]:
    """For each query that is a duplicate of an earlier one, the pair with the first of those."""
    index, repeats = _Index(), []
    for query in queries:
        problem = _Problem.of(query, instruction)
        repeats += index.duplicates_of(problem)[:1]
        index.add(problem)
    return repeats


def overlap_row(overlap: Overlap, dropped: bool) -> QueryOverlap:
    """A pair as it is stored. `dropped`: the query is not in the run."""
    query, other = overlap.query, overlap.other
    return QueryOverlap(
        overlap_id=deterministic_id("query_overlap", query=query.query_id, other=other.query_id),
        run_id=query.run_id,
        query_id=None if dropped else query.query_id,
        source=query.source,
        text=query.text,
        other_query_id=other.query_id,
        other_split=other.split,
        kind=overlap.kind,
        similarity=overlap.similarity,
        dropped=dropped,
    )
