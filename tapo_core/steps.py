"""Steps of a rollout, with their places in the text and in the tokens.

A step is a non-empty line; but a displayed formula that spans lines is one step, and a long line of prose is a step a sentence.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

#: Characters above which a line of prose is cut into sentences.
_LONG_LINE = 200
_DISPLAY_BEGIN = re.compile(r"\\\[|\$\$|\\begin\{(\w+\*?)\}")
#: A sentence ends before white space and what can begin another one. Not after an abbreviation or a lone initial or number.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9$\\])")
_NO_END = re.compile(
    r"(?:^|[\s(])(?:[A-Za-z]|\d+|e\.g|i\.e|cf|vs|etc|approx|resp|Eqs?|Figs?|No|Thm|Lem|Dr|Mr|Mrs|Ms|St)\.$"
)
_INLINE_MATH = re.compile(r"\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Step:
    """One step. Spans are half-open: `text[char_start:char_end]` is the step, without the line break that ends it."""

    index: int
    text: str
    char_start: int
    char_end: int


def split_steps(text: str) -> list[Step]:
    """The steps of a text, in order.

    >>> [(s.index, s.text) for s in split_steps("7 + 12 = 19\\n\\n19 - 5 = 13")]
    [(0, '7 + 12 = 19'), (1, '19 - 5 = 13')]
    """
    spans = (span for start, end in _blocks(text) for span in _sentences(text, start, end))
    return [Step(index, text[start:end], start, end) for index, (start, end) in enumerate(spans)]


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the non-empty lines, those of a displayed formula together."""
    start = 0
    begin, closer = 0, ""  # of the formula that is open
    for line in text.split("\n"):
        end = start + len(line)
        if not closer:
            begin, closer = start, _unclosed(line)
        elif closer in line:
            closer = _unclosed(line[line.index(closer) + len(closer) :])
        if not closer and text[begin:end].strip():
            yield begin, end
        start = end + 1
    if closer:  # a formula that nothing closes holds nothing together
        for line in text[begin:].split("\n"):
            if line.strip():
                yield begin, begin + len(line)
            begin += len(line) + 1


def _unclosed(line: str) -> str:
    """What would close the displayed formula that a line opens and does not close; empty if there is none."""
    at = 0
    while (opened := _DISPLAY_BEGIN.search(line, at)) is not None:
        closer = {"\\[": "\\]", "$$": "$$"}.get(opened[0]) or f"\\end{{{opened[1]}}}"
        at = line.find(closer, opened.end())
        if at < 0:
            return closer
        at += len(closer)
    return ""


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Spans of the sentences of a long line of prose; the span itself for anything else."""
    block = text[start:end]
    if len(block) <= _LONG_LINE or "\n" in block:
        yield start, end
        return
    formulas = [match.span() for match in _INLINE_MATH.finditer(block)]
    begin = 0
    for match in _SENTENCE_END.finditer(block):
        inside = any(first < match.start() < last for first, last in formulas)
        if not inside and not _NO_END.search(block[begin : match.start()]):
            yield start + begin, start + match.start() + len(match[0].rstrip())
            begin = match.end()
    if block[begin:].strip():
        yield start + begin, end


def token_end_of(token_ids_T: Sequence[int], text: str, char_end: int, decode: Callable[[Sequence[int]], str]) -> int:
    """The number of leading tokens that cover `text[:char_end]`: the fewest whose decoded text reaches `char_end`.

    `text` is the decoded text of all tokens. Decoding a prefix can end in a replacement character where a character is
    split over tokens; the count is then of the token that completes it. Bisection, since decoded length never falls.

    Raises:
        ValueError: `char_end` is beyond the text.
    """
    if char_end > len(text):
        raise ValueError(f"character {char_end} is beyond the text's {len(text)}")
    low, high = 0, len(token_ids_T)
    while low < high:
        middle = (low + high) // 2
        prefix = decode(token_ids_T[:middle])
        if len(prefix) >= char_end and prefix[:char_end] == text[:char_end]:
            high = middle
        else:
            low = middle + 1
    return low
