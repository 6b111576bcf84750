"""Whether an answer reflects: whether it takes back, in words, something it has written.

A heuristic, by its nature: the paper does not say how reflection was detected. What counts are the words with which answers
turn around; its version is stored with every figure that rests on it.
"""

import re

VERSION = "words-1"

_TURNS = re.compile(
    r"^\W*(?:wait|hmm|hold on|oops|actually)\b"  # at the beginning of a line
    r"|(?<=[.!?] )(?:Wait|Hmm|Hold on|Oops|Actually)\b"  # or of a sentence
    r"|\blet me (?:re-?\w+|double-check|check (?:that|this|it|again)|try again)\b"
    r"|\b(?:that|this) (?:is|was|seems|looks) (?:wrong|incorrect|not right|a mistake)\b"
    r"|\b(?:i|we) made (?:a|an) (?:mistake|error)\b"
    r"|\bThat gives \d+, not \d+",  # equations of the built-in task
    re.IGNORECASE | re.MULTILINE,
)


def reflects(text: str) -> bool:
    """True if the text turns around at least once.

    >>> reflects("7 + 12 = 18\\nWait, 7 + 12 is not 18."), reflects("We waited. 7 + 12 = 19")
    (True, False)
    """
    return _TURNS.search(text) is not None
