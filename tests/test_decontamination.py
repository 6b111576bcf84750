"""Duplicates between training queries and benchmarks: what counts as one, what does not, and that all are found."""

import itertools
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rapidfuzz import fuzz

from tapo_core.decontamination import MIN_SIMILARITY, find_overlaps, find_repeats, words
from tapo_core.ids import deterministic_id
from tapo_core.nano.config import NanoConfig
from tapo_core.nano.families import generate_problems
from tapo_core.records import OverlapKind, Query

AYA = (
    "Every morning Aya goes for a $9$-kilometer-long walk and stops at a coffee shop afterwards. When she walks at a constant "
    "speed of $s$ kilometers per hour, the walk takes her $4$ hours, including $t$ minutes spent in the coffee shop."
)
ROOTS = (
    r"Let $a$ and $b$ be the roots of $x^2-mx+2=0$. If $a + \frac{1}{b}$ and $b + \frac{1}{a}$ are the roots of $x^2-px+q=0$, "
    "what is $q$?"
)


def query(text: str, gold: str = "1", split: str = "train", source: str = "t:1") -> Query:
    query_id = deterministic_id("query", split=split, text=text, gold=gold)
    return Query(query_id, "run", split, text, gold, None, None, source, "")


def compared(text: str, other: str, gold: str = "1", other_gold: str = "1") -> str | None:
    """The kind of the overlap of two problems, if there is one."""
    found = find_overlaps([query(text, gold)], [query(other, other_gold, "bench")])
    assert len(found) <= 1
    return found[0].kind.value if found else None


def test_words_are_what_decoration_leaves() -> None:
    assert words(r"What is $\dfrac12 \times 1{,}000$?") == ("what", "is", "1", "/", "2", "*", "1000")
    assert words("(1,234) and $2,345,678 of 0.5%") == ("(", "1", "234", ")", "and", "2345678", "of", "0.5", "%")
    assert words("a non-negative x-y") == ("a", "non", "negative", "x", "-", "y")
    assert words("90^\\circ = 90°, ½") == ("90", "°", "=", "90", "°", "1", "/", "2")
    assert words("求最小值") == tuple("求最小值")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"Find $\left(\dfrac{1}{2}\right)^{2}$.", r"find  \( ( \frac12 )^2 \)"),
        (r"\text{If } x \le 3, what is $x\cdot y$", "If $x \\leq 3$, what is $x \\times y$?"),
        ("A set of 10{,}000 non-empty boxes", "A set of $10,\\!000$ non empty boxes."),
        ("Solve “x – 1 = 2”.", "solve x - 1 = 2"),
    ],
)
def test_decoration_makes_no_difference(one: str, other: str) -> None:
    assert words(one) == words(other)
    assert compared(one, other, "3", "4") == "exact", "whatever the answers are"


@pytest.mark.parametrize(
    ("one", "other"),
    [("3 + 4", "3 - 4"), (r"\frac{1}{23}", r"\frac{12}{3}"), ("(2+3)*4", "2+(3*4)"), ("x < 5", "x > 5"), ("5!", "5")],
)
def test_mathematics_makes_a_difference(one: str, other: str) -> None:
    assert words(one) != words(other)


_PIECES = st.sampled_from(
    [
        "Find",
        "the",
        "non-zero",
        "1,000",
        "3.5",
        "x",
        "$",
        "\\frac",
        "{",
        "}",
        "\\left(",
        ")",
        "^2",
        "\\circ",
        "-",
        "é",
        "ﬁ",
        "½",
        "~",
    ]
)


@settings(max_examples=200, database=None)
@given(st.text(max_size=60) | st.lists(_PIECES, max_size=12).map(" ".join))
@example("1.2.3 ..5 -- İ ẞ ǅ")
def test_words_of_words_are_the_same(text: str) -> None:
    assert words(" ".join(words(text))) == words(text)


_LETTERS = st.text(string.ascii_letters, min_size=2, max_size=8)


@settings(max_examples=100, database=None)
@given(st.lists(_LETTERS | st.integers(0, 999).map(str), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_case_space_and_punctuation_make_no_difference(parts: list[str], random: object) -> None:
    choice = random.choice  # type: ignore[attr-defined]
    dressed = "".join(
        choice([part, part.upper(), part.lower()])
        + choice([" ", "  ", "\n", ": ", "? ", "; ", r"\, ", r"\quad ", " $ "])
        for part in parts
    )
    assert words(dressed) == words(" ".join(parts))


def test_near_duplicates_have_the_same_numbers_and_answer_and_nearly_the_same_words() -> None:
    other = ROOTS.replace(r"\frac{1}{b}", "(1/b)").replace(r"\frac{1}{a}", "(1/a)").replace("If ", "Suppose ")
    assert compared(other, ROOTS, r"\frac{9}{2}", "4.5") == "near"
    assert compared(other, ROOTS, "9/2", "m") is None, "another question about the same numbers"
    assert compared(other.replace("2=0", "3=0"), ROOTS) is None, "other numbers"
    assert compared("What is the range of $f(x) = x^2$ on the whole real line?", ROOTS) is None


def test_a_problem_that_stands_whole_in_another_is_found() -> None:
    assert compared(f"AIME 2024, Problem 1 (5 points). {AYA} Explain.", AYA) == "near"
    assert compared(f"{AYA[:-60]} ...", AYA) is None
    assert compared("Compute 2 + 2 and add the result to 7, please, if you can do so.", "Compute 2 + 2") is None, (
        "too short to say"
    )


@pytest.mark.parametrize(
    ("one", "other", "golds"),
    [
        ("Start with 7. Add 9. What is the result?", "Start with 8. Add 9. What is the result?", ("16", "17")),
        ("Start with 7. Add 9. What is the result?", "Start with 7. Subtract 9. What is the result?", ("16", "-2")),
        # Other numbers with the same result.
        ("Start with 7. Add 9. What is the result?", "Start with 9. Add 7. What is the result?", ("16", "16")),
        # The same numbers with the same result, in another order of the same words.
        (
            "Start with 8. Subtract 4, then subtract 1, then subtract 2, then add 1, then add 3. What is the result?",
            "Start with 8. Subtract 4, then add 1, then subtract 2, then subtract 1, then add 3. What is the result?",
            ("5", "5"),
        ),
        (
            "Weng earns $12 an hour for babysitting. Yesterday, she just did 50 minutes of babysitting. How much did she earn?",
            "Weng earns $18 an hour for babysitting. Yesterday, she just did 40 minutes of babysitting. How much did she earn?",
            ("10", "12"),
        ),
        (
            "Determine the number of ways to arrange the letters of the word PROOF.",
            "Determine the number of ways to arrange the letters of the word ELLIPSE.",
            ("60", "1260"),
        ),
    ],
)
def test_problems_of_one_template_are_no_duplicates(one: str, other: str, golds: tuple[str, str]) -> None:
    assert fuzz.ratio(one.lower(), other.lower()) > 85, "alike enough to be taken for one another"
    assert compared(one, other, *golds) is None
    assert compared(other, one, *reversed(golds)) is None


@pytest.mark.parametrize("families", [("chain",), ("equation",)])
@pytest.mark.parametrize("level", [3, 4, 5, 6])
def test_the_built_in_splits_do_not_overlap(families: tuple[str, ...], level: int) -> None:
    config = NanoConfig(families=families, levels=(level,))  # type: ignore[arg-type]
    n_train, n_held_out = (240, 60) if families == ("equation",) else (3000, 800)
    made = {}
    for split, n in (("train", n_train), ("held_out", n_held_out)):
        problems = generate_problems(config.mix, n, 0, split)  # type: ignore[arg-type]
        made[split] = [query(p.text, p.answer, split) for p in problems]
    assert find_overlaps(made["train"], made["held_out"]) == []
    planted = query(made["held_out"][0].text.upper(), "0")
    (found,) = find_overlaps([*made["train"], planted], made["held_out"])
    assert (found.query, found.kind, found.similarity) == (planted, OverlapKind.EXACT, 100.0)


def test_the_n_grams_of_a_template_find_nobody_and_those_of_a_problem_still_do() -> None:
    """A thousand problems without numbers and with one answer, alike but for one word, and longer than `MIN_QUOTED`."""
    letters = string.ascii_lowercase
    names = ["".join(name) for name in itertools.islice(itertools.product(letters[:10], repeat=3), 1000)]
    text = "Decide whether the {} function of the real line is odd, even, both or neither, and say which of these it is here."
    queries = [query(text.format(name), "odd", source=f"t:{n}") for n, name in enumerate(names)]
    copy = query(text.format(f"$ {names[77].upper()} $"), "odd", source="copy")
    other = query(text.format("abc-like smooth periodic and bounded"), "odd", source="other")
    found = [(o.query.source, o.other.source, o.kind.value) for o in find_overlaps([copy, other], queries)]
    assert found == [("copy", "t:77", "exact")]


def test_the_instruction_is_left_out_of_the_comparison() -> None:
    box = "Please reason step by step, and put your final answer within \\boxed{}, and nothing else in it, please."
    one, other = query(f"Is $f$ odd?\n{box}"), query(f"Is $g$ even?\n{box}", split="bench")
    assert len(find_overlaps([one], [other])) == 1, "alike by what they share"
    assert find_overlaps([one], [other], box) == []
    same = query(f"is f odd\n{box}", split="bench")
    assert [o.kind.value for o in find_overlaps([one], [same], box)] == ["exact"]


def test_repeats_name_the_first_of_their_kind() -> None:
    texts = ["1 + 1?", AYA, "1+1", "2 + 2?", AYA + " Explain.", "1 + 1."]
    queries = [query(text, source=f"t:{n}") for n, text in enumerate(texts)]
    found = find_repeats(queries)
    assert [(o.query.source, o.other.source, o.kind.value) for o in found] == [
        ("t:2", "t:0", "exact"),
        ("t:4", "t:1", "near"),
        ("t:5", "t:0", "exact"),
    ]


_SMALL = st.lists(
    st.sampled_from(["find", "the", "sum", "of", "x", "y", "2", "+", "product", "all"]), min_size=1, max_size=30
)


@settings(max_examples=100, database=None)
@given(st.lists(_SMALL, min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_the_index_finds_copies_and_nothing_that_is_none(problems: list[list[str]], random: object) -> None:
    """Against comparing all pairs. A copy with one word changed is always found; a pair without a common n-gram may not be."""
    texts = [" ".join(problem) for problem in problems]
    for problem in problems:
        copy = list(problem)
        copy[random.randrange(len(copy))] = "z"  # type: ignore[attr-defined]
        texts.append(" ".join(copy))
    queries = [query(text, source=f"t:{n}") for n, text in enumerate(texts)]
    found = {(o.query.source, o.other.source) for o in find_overlaps(queries, queries) if o.query is not o.other}
    for (i, one), (j, other) in itertools.permutations(enumerate(queries), 2):
        a, b = words(one.text), words(other.text)
        numbers = [[w for w in side if w.isdecimal()] for side in (a, b)]
        alike = numbers[0] == numbers[1] and fuzz.ratio(" ".join(a), " ".join(b)) >= MIN_SIMILARITY
        whole = a == b or (len(b) >= 13 and f" {' '.join(b)} " in f" {' '.join(a)} ")
        duplicates = whole or (alike and sorted(a) != sorted(b))
        if (one.source, other.source) in found:
            assert duplicates, (a, b)
        if whole or (duplicates and abs(i - j) == len(problems)):
            assert (one.source, other.source) in found, (a, b)
