r"""Where a text without a box says its answer: in a tag, in a last sentence such as "The answer is 8.", or it is nothing else."""

import re

from tapo_core.verification.kinds import Answer, Collection, Relation, SetUnion, Unread, Words
from tapo_core.verification.reading import read

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"^\s*#{3,}\s*(\S.*?)\s*$", re.MULTILINE)
#: "The answer is: 8. I hope it is correct."
_SENTENCE = re.compile(
    r"\banswers?\s*(?:\([^()\n]{0,40}\)\s*)?(?:is|are|=|:)\s*:?\s*(?:\*\*\s*)?(?P<answer>\S[^\n]*)", re.IGNORECASE
)
#: A full stop that ends a sentence, and no decimal point, abbreviation or choice.
_STOP = re.compile(r"(?<![ap])\.(?=\s+[A-Z<\\]|\s*$)(?!\s*m\.)")
_MOST = 200  #: characters of a text that is nothing but an answer
_MOST_WORDS = 3


def find_answer(text: str) -> str | None:
    """The answer of a text that has no box; None where only a search through all of it could find one.

    >>> find_answer("Hence <answer>8</answer>"), find_answer("Therefore the answer is B."), find_answer("We see 3 birds.")
    ('8', 'B', None)
    """
    text = text.strip()
    tags = _TAG.findall(text)
    if tags:
        return str(tags[-1]).strip()
    found = None
    for sentence in _SENTENCE.finditer(text):
        candidate = _STOP.split(sentence["answer"], maxsplit=1)[0].strip().removesuffix("**").strip()
        if len(candidate) <= _MOST and _is_answer(read(candidate)):
            found = candidate
    if found is not None:
        return found
    hashes = _HASHES.findall(text)
    if hashes and _is_answer(read(hashes[-1])):
        return str(hashes[-1])
    return text if len(text) <= _MOST and "\n" not in text and _is_answer(read(text)) else None


def corrected(text: str) -> str | None:
    r"""The answer that a text calls its final one after its last box; None where it does not.

    >>> corrected(r"\boxed{255}. With the rest, the final answer is 10455. I hope it is correct.")
    '10455'
    """
    place = text.rfind("inal answer") + len("inal ")
    if place < len("inal ") or place < text.rfind("\\boxed") or not _SENTENCE.match(text, place):
        return None
    return find_answer(text[place:])


def _is_answer(answer: Answer | None) -> bool:
    """Whether a text is an answer and not a sentence that has one somewhere."""
    if answer is None or isinstance(answer, Unread):
        return False
    if isinstance(answer, Words):
        return len(answer.words) <= _MOST_WORDS
    if isinstance(answer, Collection):
        return all(_is_answer(item) for item in answer.items)
    if isinstance(answer, SetUnion):
        return all(_is_answer(part) for part in answer.parts)
    if isinstance(answer, Relation):
        return answer.latex is not None or _is_answer(answer.value)
    return True
