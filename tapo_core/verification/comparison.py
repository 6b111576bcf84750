"""Whether an answer is the gold answer, kind by kind. Nothing is computed here that takes longer than microseconds.

What only computer algebra can tell is asked of `ask`, with two expressions in LaTeX; as long as it has no verdict yet the
comparison is OPEN, and is made again when it has. Where the kinds do not fit, the answer is different; where an answer has two
meanings, or too few digits to tell, that is unclear. Neither is ever taken for the same.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

from tapo_core.verification.expression_parser import parse
from tapo_core.verification.intervals import as_interval
from tapo_core.verification.kinds import (
    Answer,
    Choice,
    Collection,
    InBase,
    Quantity,
    Ratio,
    Relation,
    SetUnion,
    Time,
    Unread,
    Words,
)
from tapo_core.verification.likeness import DIFFERENT, OPEN, SAME, UNCLEAR, Ask, Likeness, all_same, same_if
from tapo_core.verification.notation import squeezed
from tapo_core.verification.quantities import quantities
from tapo_core.verification.reading import read

#: Collections with more items are compared as texts only.
_MOST_ITEMS = 40
_PRIMES = re.compile(r"(?<![A-Za-z])[A-Za-z]('+)")
_MATRIX = re.compile(r"\\(?:mathbf|bm|boldsymbol)\s*\{[A-Za-z]\}")
_PARTIAL = re.compile(r"\\partial\s*\\?([A-Za-z]+)")
_UNORDERED = frozenset(("", "{}", "{"))
_LOGIC_WORDS = """
yes no true false even odd none all both neither never always sometimes increasing decreasing north south east west left right up
down monday tuesday wednesday thursday friday saturday sunday january february march april may june july august september october
november december
"""
#: Words whose case never counts, not even in capitals.
_LOGIC = frozenset(_LOGIC_WORDS.split())


def compare(gold: Answer, answer: Answer, ask: Ask, nested: bool = False) -> Likeness:
    """Whether two answers are the same. `gold` comes first: its digits are what an answer has to agree with.

    `nested`: both are items of collections.
    """
    if gold.text == answer.text and not isinstance(gold, Unread):
        return SAME
    gold, answer = _alike(gold, answer, nested), _alike(answer, gold, nested)
    match gold, answer:
        case (Unread(), _) | (_, Unread()):
            return _unread(gold, answer, ask)
        case Quantity(), Quantity():
            return quantities(gold, answer, ask)
        case ((Words() | Choice()), (Words() | Choice())):
            return _texts(gold, answer, ask)
        case Collection(), Collection():
            return _collections(gold, answer, ask)
        case ((Time() | Ratio()), (Time() | Ratio())):
            return _times(gold, answer)
        case InBase(), InBase():
            return same_if(gold.value == answer.value)
        case Relation(), Relation():
            return _relations(gold, answer, ask)
        case SetUnion(), SetUnion():
            found = _unordered(gold.parts, answer.parts, ask)
            return ask(gold.text, answer.text) if found is DIFFERENT else found
    return _mixed(gold, answer, ask)


def _alike(one: Answer, other: Answer, nested: bool) -> Answer:
    """An answer as the kind that the other one is, where it is that as well."""
    if isinstance(one, Relation) and not isinstance(other, Relation) and one.value is not None:
        return _alike(one.value, other, nested)
    single = isinstance(one, Collection) and len(one.items) == 1 and one.brackets in ("", "{}", "{")
    if single and not nested and not isinstance(other, Collection | Relation | SetUnion):
        assert isinstance(one, Collection)
        return _alike(one.items[0], other, nested)
    if isinstance(one, Choice) and one.rest and not isinstance(other, Choice | Words):
        return read(one.rest) or one
    return one


# --- words


def _texts(gold: Words | Choice, answer: Words | Choice, ask: Ask) -> Likeness:
    if isinstance(gold, Choice) and isinstance(answer, Choice):
        both = gold.marked and answer.marked
        listed = answer.marked and gold.letter in "ABCDEFGH"  # (b) for the choice B; m is not M
        alike = gold.letter == answer.letter or ((both or listed) and gold.letter.lower() == answer.letter.lower())
        if not alike:
            return DIFFERENT
        if gold.rest and answer.rest and gold.rest != answer.rest:
            one, other = read(gold.rest), read(answer.rest)
            found = compare(one, other, ask) if one and other else SAME
            return UNCLEAR if found is DIFFERENT else found
        return SAME
    ours, theirs = _words_of(gold), _words_of(answer)
    if ours == theirs:
        return SAME
    if [word.casefold() for word in ours] != [word.casefold() for word in theirs]:
        return DIFFERENT
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    if any(len(a) == 1 for a, _ in pairs) and len(ours) == 1:
        return DIFFERENT
    return SAME if all((_is_prose(a) and _is_prose(b)) or a.lower() in _LOGIC for a, b in pairs) else UNCLEAR


def _words_of(text: Words | Choice) -> tuple[str, ...]:
    if isinstance(text, Words):
        return text.words
    return (*(text.rest.replace('"', " ").split()),) if text.rest else (text.letter,)


def _is_prose(word: str) -> bool:
    """Whether a word is written as words are in a sentence, so that its capital means nothing: yes, Yes."""
    return word.islower() or (word[0].isupper() and word[1:].islower() and len(word) > 1)


# --- times and ratios


def _times(gold: Time | Ratio, answer: Time | Ratio) -> Likeness:
    ours = gold if isinstance(gold, Time) else gold.time
    theirs = answer if isinstance(answer, Time) else answer.time
    if ours is not None and theirs is not None:
        if ours.seconds == theirs.seconds:
            return SAME
        # Without a.m. or p.m. an hour up to twelve may be either.
        loose = {t.half for t in (ours, theirs)} & {None} and {t.half for t in (ours, theirs)} & {"am", "pm"}
        half_day = 12 * 3600
        return same_if(bool(loose) and (ours.seconds - theirs.seconds) % half_day == 0)
    if isinstance(gold, Time) or isinstance(answer, Time):
        return DIFFERENT
    if len(gold.parts) != len(answer.parts):
        return DIFFERENT
    same = all(
        a * d == b * c for a, b, c, d in zip(gold.parts, gold.parts[1:], answer.parts, answer.parts[1:], strict=False)
    )
    if not same or any(part == 0 for part in (*gold.parts, *answer.parts)):
        return same_if(gold.parts == answer.parts)
    # A gold answer that may be a time, in lowest terms or not: nobody can tell.
    return UNCLEAR if ours is not None else SAME


# --- several answers


def _collections(gold: Collection, answer: Collection, ask: Ask) -> Likeness:
    ours, theirs = _distinct(gold), _distinct(answer)
    if len(ours) != len(theirs) or len(ours) > _MOST_ITEMS:
        return DIFFERENT
    kinds = gold.brackets, answer.brackets
    if kinds[0] != kinds[1] and not _fit(*kinds, len(ours)):
        return DIFFERENT
    by_name = _by_name(gold), _by_name(answer)
    if by_name[0] and by_name[1]:
        if by_name[0].keys() != by_name[1].keys():
            return DIFFERENT
        return all_same([compare(value, by_name[1][name], ask) for name, value in by_name[0].items()])
    named = bool(by_name[0] or by_name[1])
    if not named and kinds[0] in _UNORDERED and kinds[1] in _UNORDERED:
        found = _unordered(ours, theirs, ask)
        other_joint = gold.joint and answer.joint and gold.joint != answer.joint
        # x < 1 and x > 2 is not x < 1 or x > 2; 1 and 2 is 1 or 2.
        return UNCLEAR if found is SAME and other_joint and any(isinstance(i, Relation) for i in ours) else found
    return all_same([compare(a, b, ask, nested=True) for a, b in zip(ours, theirs, strict=True)])


def _distinct(collection: Collection) -> Sequence[Answer]:
    """Its items; in a set, and in a list of solutions that are tuples, each once."""
    items = collection.items
    if collection.brackets in ("{}", "{") or (
        collection.brackets == "" and all(isinstance(i, Collection) for i in items)
    ):
        return list({squeezed(item.text): item for item in items}.values())
    return items


def _fit(gold: str, answer: str, n: int) -> bool:
    """Whether brackets that differ can mean the same. Those of an interval tell whether its ends belong to it."""
    if gold == "{":  # braces of a gold answer are a set's
        return answer in _UNORDERED
    loose = {"", "()", "⟨⟩", "{"}
    if {gold, answer} <= loose or {gold, answer} <= _UNORDERED:
        return True
    return {gold, answer} <= {"", "[]", "⟨⟩", "()"} and n > 2


def _by_name(collection: Collection) -> dict[str, Answer]:
    """Name -> value, where every item sets another name equal to something; else nothing."""
    found = {}
    for item in collection.items:
        if not isinstance(item, Relation) or item.name is None or item.value is None:
            return {}
        found[item.name] = item.value
    return found if len(found) == len(collection.items) else {}


def _unordered(ours: Sequence[Answer], theirs: Sequence[Answer], ask: Ask) -> Likeness:
    """Whether each has its counterpart. Being the same is an equivalence, so that taking the first that fits is enough."""
    if len(ours) != len(theirs):
        return DIFFERENT
    left = list(theirs)
    rest: list[Answer] = []
    for one in ours:
        place = next((n for n, other in enumerate(left) if one.text == other.text), None)
        if place is None:
            rest.append(one)
        else:
            left.pop(place)
    table = [[compare(one, other, ask, nested=True) for other in left] for one in rest]
    if any(OPEN in row and SAME not in row for row in table):
        return OPEN
    free = set(range(len(left)))
    found = SAME
    for row in table:
        place = next((n for n in sorted(free) if row[n] is SAME), None)
        if place is None:
            place = next((n for n in sorted(free) if row[n] is UNCLEAR), None)
            if place is None:
                return DIFFERENT
            found = UNCLEAR
        free.remove(place)
    return found


# --- relations, and what has no kind of its own


def _relations(gold: Relation, answer: Relation, ask: Ask) -> Likeness:
    if gold.name is not None and answer.name is not None and gold.value is not None and answer.value is not None:
        if gold.name == answer.name:
            return compare(gold.value, answer.value, ask)
        plain = set(gold.signs) == set(answer.signs) == {"="} and len(gold.sides) == len(answer.sides) == 2
        # x = 3 is not y = 3; y = 2x and x = y/2 are the same line.
        if plain and not (_is_equation(gold) and _is_equation(answer)):
            return DIFFERENT
    intervals = as_interval(gold), as_interval(answer)
    if intervals[0] is not None and intervals[1] is not None:
        if intervals[0].variable != intervals[1].variable:
            return DIFFERENT
        return compare(intervals[0].interval, intervals[1].interval, ask)
    if gold.latex is not None and answer.latex is not None:
        return ask(gold.latex, answer.latex)
    return _asked_as_texts(gold, answer, ask)


def _asked_as_texts(gold: Answer, answer: Answer, ask: Ask) -> Likeness:
    """Two texts for math-verify, which sees no prime, nor by what is derived, and takes a matrix's letter for a number's."""
    if _derivatives(gold.text) != _derivatives(answer.text) or _MATRIX.search(gold.text + answer.text):
        return UNCLEAR
    return ask(latex_of(gold), latex_of(answer))


def _derivatives(text: str) -> tuple[int, list[str]]:
    return sum(map(len, _PRIMES.findall(text))) + text.count(r"\prime"), sorted(_PARTIAL.findall(text))


def _is_equation(relation: Relation) -> bool:
    """Whether it has unknowns on the side of the value too."""
    return (
        relation.latex is not None
        and isinstance(relation.value, Quantity)
        and bool(relation.value.expression.names - {"pi", "e", "i"})
    )


def _unread(gold: Answer, answer: Answer, ask: Ask) -> Likeness:
    ours, theirs = squeezed(gold.text), squeezed(answer.text)
    if ours == theirs:
        return SAME
    for one in (gold, answer):
        if isinstance(one, Unread) and one.why is not None:
            return UNCLEAR
    if isinstance(gold, Unread) and isinstance(answer, Unread) and ours.casefold() == theirs.casefold():
        return UNCLEAR
    if isinstance(gold, Words | Choice | Time | Ratio) or isinstance(answer, Words | Choice | Time | Ratio):
        return DIFFERENT
    return _asked_as_texts(gold, answer, ask)


def latex_of(answer: Answer) -> str:
    """An answer for computer algebra."""
    if isinstance(answer, Quantity) and answer.unit is None:
        return answer.expression.latex
    if isinstance(answer, Relation) and answer.latex is not None:
        return answer.latex
    return answer.text.replace('"', " ")


def _mixed(gold: Answer, answer: Answer, ask: Ask) -> Likeness:
    """Two kinds that may mean the same all the same."""
    both = {type(gold), type(answer)}
    if both == {InBase, Quantity}:
        based, other = (gold, answer) if isinstance(gold, InBase) else (answer, gold)
        assert isinstance(based, InBase)
        assert isinstance(other, Quantity)
        if other.value == based.value and other.unit is None:
            return SAME
        # 204 may be 204 in base 5, without its base.
        return UNCLEAR if other.text == based.digits else DIFFERENT
    if both == {Ratio, Quantity}:
        ratio, other = (gold, answer) if isinstance(gold, Ratio) else (answer, gold)
        assert isinstance(ratio, Ratio)
        assert isinstance(other, Quantity)
        if len(ratio.parts) != 2 or not ratio.parts[1] or other.value is None or other.unit is not None:
            return DIFFERENT
        same = ratio.parts[0] / ratio.parts[1] == other.value
        return UNCLEAR if same and ratio.time is not None else same_if(same)
    if Collection in both and Quantity in both:
        return _decimal_comma(gold, answer)
    if both <= {Relation, Collection, SetUnion} and both & {Relation, SetUnion}:
        for one, other in ((gold, answer), (answer, gold)):
            bounded = as_interval(one) if isinstance(one, Relation) else None
            if bounded is not None and isinstance(other, Collection):
                pair = (bounded.interval, other) if one is gold else (other, bounded.interval)
                return compare(*pair, ask)
        return ask(latex_of(gold), latex_of(answer))
    if both == {Choice, Quantity} or both == {Words, Quantity}:
        text, other = (answer, gold) if isinstance(gold, Quantity) else (gold, answer)
        assert isinstance(other, Quantity)
        return _letters_as_algebra(text, other, gold is text, ask)
    return DIFFERENT


def _letters_as_algebra(text: Answer, other: Quantity, is_gold: bool, ask: Ask) -> Likeness:
    """A letter or two may be algebra where the other answer is: x and 1x, ab and a*b; e is a number."""
    if text.text in ("e", "i"):
        constant = Quantity(text.text, parse(text.text))
        return quantities(constant, other, ask) if is_gold else quantities(other, constant, ask)
    if other.value is not None or other.unit is not None or len(text.text) > 3 or not text.text.isalpha():
        return DIFFERENT
    if frozenset(text.text) != other.expression.names:
        return DIFFERENT
    product = r" \cdot ".join(text.text)
    return ask(product, other.expression.latex) if is_gold else ask(other.expression.latex, product)


def _decimal_comma(gold: Answer, answer: Answer) -> Likeness:
    """1000,99 is 1000.99 with a decimal comma, if the other answer is just that decimal; 2,5 may be two numbers."""
    pair, other = (gold, answer) if isinstance(gold, Collection) else (answer, gold)
    assert isinstance(other, Quantity)
    if "".join(pair.text.split()).replace(",", "") == str(other.value) and "," in pair.text:
        return UNCLEAR  # 10, 100 may be 10,100
    left, comma, right = pair.text.partition(",")
    digits = left.lstrip("-").isdecimal() and right.isdecimal() and left != "-"
    if not comma or not digits or other.expression.step is None or other.value != Fraction(f"{left}.{right}"):
        return DIFFERENT
    return SAME if len(right) > 1 and (len(right) != 3 or left in ("0", "-0")) else UNCLEAR
