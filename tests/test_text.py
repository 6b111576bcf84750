"""Text for people keeps its form whatever is put into it."""

import pytest

from tapo_core.text import fenced, markdown_table


@pytest.mark.parametrize("text", ["plain", "a ``` b", "````\n<script>", "`", ""])
def test_a_fence_is_longer_than_any_in_the_text(text: str) -> None:
    first, *middle, last = fenced(text).split("\n")
    assert "\n".join(middle) == text
    assert first == last == "`" * len(first)
    assert len(first) >= 3
    assert first not in text


def test_a_cell_cannot_break_a_table() -> None:
    assert markdown_table(["a"], [["x|y\nz"], [0.123456], [None]]).split("\n")[2:] == [
        "| x\\|y z |",
        "| 0.1235 |",
        "|  |",
    ]
