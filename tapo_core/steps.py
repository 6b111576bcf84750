"""Steps of a rollout: its non-empty lines, with their places in the text and in the tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One step. Spans are half-open; `char_end` is before the line break, so `text[char_start:char_end]` is the step."""

    index: int
    text: str
    char_start: int
    char_end: int


def split_steps(text: str) -> list[Step]:
    """The non-empty lines of a text, in order.

    >>> [(s.index, s.text) for s in split_steps("7 + 12 = 19\\n\\n19 - 5 = 13")]
    [(0, '7 + 12 = 19'), (1, '19 - 5 = 13')]
    """
    steps: list[Step] = []
    start = 0
    for line in text.split("\n"):
        if line.strip():
            steps.append(Step(len(steps), line, start, start + len(line)))
        start += len(line) + 1
    return steps


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
