r"""Where a text without a box has its answer: in a tag, in a last sentence such as "The answer is 8.", or it is nothing else."""

import re

from tapo_core.verification.kinds import Answer, Collection, Quantity, Relation, SetUnion, Unread, Words
from tapo_core.verification.reading import read

_TAG = re.compile(r"<answer\b[^<>]*>(.*?)</answer\s*>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"^\s*#{3,}\s*(\S.*?)\s*$", re.MULTILINE)
#: "The answer is: 8. I hope it is correct."
_SENTENCE = re.compile(
    r"\b(?:answers?|(?:correct|right)\s+(?:option|choice))\s*(?:\([^()\n]{0,40}\)\s*)?"
    r"(?:(?:to|of|for)\s[^.:\n]{0,60}?)?(?:\bis\b|\bare\b|=|:)\s*:?\s*(?:\*\*\s*)?(?=(?P<answer>\S[^\n]*))",
    re.IGNORECASE,
)
#: A full stop that ends a sentence, and no decimal point, abbreviation or choice.
_STOP = re.compile(r"(?<![ap])\.(?=\s+[A-Z<\\]|\s*$)(?!\s*m\.)")
#: What adds to an answer without being a part of it.
_ADDITION = re.compile(
    r",\s*(?:not|because|since|so|it|which|where|as|but|and not)\b.*|\s+(?:because|since|which)\b.*", re.DOTALL
)
#: An answer that is denied, or only bounded, by the words before or after it.
_DENIED = re.compile(
    r"(?:\b(?:not|never|cannot\s+be|neither|nor|except|than|most|least|above|below|over|under)|n't(?:\s+be)?)\s+(?:\w+\s+)?$"
    r"|\b(?:between|either)\b[^.\n]{0,40}$|\b(?:wrong|incorrect)\s*:?\s*$",
    re.IGNORECASE,
)
_GIVES_UP = re.compile(r"\b(?:give up|no (?:idea|answer|clue)|(?:don't|do not) know)\b", re.IGNORECASE)
_DENIED_AFTER = re.compile(r"\W{0,3}\s*(?:is|was)\s+(?:not\b|wrong|incorrect)|\s+or\s", re.IGNORECASE)
_MOST = 200  #: characters of a text that is nothing but an answer
_MOST_WORDS = 3
_FUNCTION_WORDS = frozenset(("to", "be", "that", "as", "in", "of", "it", "this", "what", "we", "you"))
_TWO_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}\s+[A-Za-z]")


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
        candidate = _STOP.split(sentence["answer"], maxsplit=1)[0]
        candidate = _ADDITION.sub("", candidate).strip().removesuffix("**").strip()
        answer = read(candidate) if len(candidate) <= _MOST else None
        # "The answer is positive" is about an answer that was given before.
        if _is_answer(answer) and not (found is not None and isinstance(answer, Words)):
            found = candidate
    if found is not None:
        return found
    hashes = _HASHES.findall(text)
    if hashes and _is_answer(read(hashes[-1])):
        return str(hashes[-1])
    return text if len(text) <= _MOST and "\n" not in text and _is_answer(read(text)) else None


def is_denied(text: str, answer: str) -> bool:
    """Whether a text says of an answer that was found in it that it is not the answer, or not quite.

    >>> is_denied("The answer is not 5.", "5"), is_denied("It is not 4, it is 5.", "5")
    (True, False)
    """
    if _GIVES_UP.search(text):
        return True
    place = text.rfind(answer)
    if place < 0:
        return False
    before = text[max(0, place - 80) : place]
    return bool(_DENIED.search(before) or _DENIED_AFTER.match(text, place + len(answer)))


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
        return len(answer.words) <= _MOST_WORDS and not _FUNCTION_WORDS.intersection(answer.words)
    if isinstance(answer, Collection):
        return all(_is_answer(item) for item in answer.items)
    if isinstance(answer, SetUnion):
        return all(_is_answer(part) for part in answer.parts)
    if isinstance(answer, Relation):
        return not _TWO_WORDS.search(answer.text) and (answer.latex is not None or _is_answer(answer.value))
    if isinstance(answer, Quantity):
        return answer.unit is None or len(answer.unit.words) <= _MOST_WORDS
    return True
