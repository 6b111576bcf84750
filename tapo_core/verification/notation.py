r"""One notation for answers: what LaTeX, ASCII and Unicode write differently becomes the same text.

The result is LaTeX without layout: ``\dfrac`` is ``\frac``, ``½`` is ``\frac{1}{2}``, ``x**2`` is ``x^2``, ``−`` is ``-``, and
words that stand in ``\text{...}`` are in double quotes. No value changes, and nothing is judged here.
"""

import re
import unicodedata

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿˣ", "0123456789+-()nx", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-", strict=True))
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma",
    "τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta",
    "Θ": "Theta", "Λ": "Lambda", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega", "𝜋": "pi", "ϕ": "phi",
}  # fmt: skip
_SIGNS = {
    **dict.fromkeys("−‐‑‒–—﹣－", "-"), **dict.fromkeys("×✕⨯", r"\times "), **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("∕⁄÷", "/"), "∗": "*", "±": r"\pm ", "∓": r"\mp ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ",
    "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "∅": r"\emptyset ", "°": r"^{\circ}", "º": r"^{\circ}", "˚": r"^{\circ}", "∘": r"\circ ", "′": "'", "“": '"',
    "”": '"', "’": "'", "‘": "'", "…": "...", "，": ",", "：": ":", "（": "(", "）": ")", "√": r"\root ",
    "∛": r"\root[3] ", "∶": ":", "⋯": "...",
    "∠": r"\angle ", "△": r"\triangle ", "∣": "|",
}  # fmt: skip
_INVISIBLE = dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\ufe0e\ufe0f", "")
_SPACES = dict.fromkeys("\u00a0\u2007\u2008\u2009\u200a\u202f\u205f\u3000\t\n\r", " ")


def _vulgar_fractions() -> dict[str, str]:
    found = {}
    for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189):
        numerator, _, denominator = unicodedata.normalize("NFKC", chr(code)).partition("\u2044")
        found[chr(code)] = rf"\frac{{{numerator}}}{{{denominator}}}"
    return found


_CHARACTERS = str.maketrans(
    {
        **{letter: f"\\{name} " for letter, name in _GREEK.items()},
        **_vulgar_fractions(),
        **_SIGNS,
        **_INVISIBLE,
        **_SPACES,
    }
)
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
#: The radicand of a Unicode root: brackets, or a number or a letter.
_ROOT = re.compile(r"\\root(\[3\])?\s*(\{|\(|\d+(?:\.\d+)?|\\frac\{\d+\}\{\d+\}|\\?[A-Za-z]+)")
_OVERLINED = re.compile("((?:[0-9]\u0305)+)")

_LAYOUT = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|limits|nolimits|bigl?|bigr?|Bigl?|Bigr?|biggl?|biggr?|phantom\{[^{}]*\})"
    r"(?![A-Za-z])"
)
#: Thin spaces between digits group them; other layout spaces are spaces.
_GROUPING = re.compile(r"(?<=\d)(?:\{,\}|,\\!\s*|\\,|\\!|\\:|\\;|~)(?=\d{3}(?!\d))")
_LAYOUT_SPACE = re.compile(r"\\(?:[,:;! ]|q?quad(?![A-Za-z])|hspace\{[^{}]*\})|~")
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt|sc)?|textnormal|mbox|hbox|mathrm|mathit|mathsf|operatorname\*?|rm|bf)"
    r"\s*\{([^{}]*)\}"
)
#: Emphasis of more than a letter, which may be the name of a matrix.
_EMPHASIS = re.compile(
    r"\\(?:mathbf|bm|boldsymbol|underline|textcolor\s*\{\w+\}|color\s*\{\w+\})\s*\{((?![A-Za-z]\})[^{}]*)\}"
)
_TUPLES = {r"\langle": "⟨", r"\rangle": "⟩", r"\lang": "⟨", r"\rang": "⟩"}
_SYNONYMS = [
    (re.compile(rf"\\(?:{names})(?![A-Za-z])"), f"\\\\{name}")
    for name, names in {
        "frac": "dfrac|tfrac|cfrac", "le": "leq|leqslant", "ge": "geq|geqslant", "ne": "neq|not=",
        "cdot": "times|ast|bullet", "infty": "infinity", "overline": "bar", "degree": "degrees",
        "cdots": "ldots|dots|dotsb|dotsc", "emptyset": "varnothing", "epsilon": "varepsilon", "phi": "varphi",
    }.items()
]  # fmt: skip
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])|\^\s*\{\s*o\s*\}")
_MARKUP = re.compile(r"\*\*(.+)\*\*|__(.+)__|`+([^`]+)`+|\*([^*]+)\*")
_EXCLAIMED = re.compile(r"[A-Za-z ]{2,}!")
_ASCII = [
    (re.compile(pattern), instead)
    for pattern, instead in [
        (r"<=|=<", r"\\le "), (r">=|=>", r"\\ge "), (r"!=|/=", r"\\ne "), (r"\+/-", r"\\pm "), (r"(?<=\s)\+-(?=\s)", r"\\pm "),
        (r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r" \\cdot "), (r"(?<![A-Za-z\\])log(2|10)\s*\(", r"\\log_{\1}("),
        (r"(?<![A-Za-z\\])(sin|cos|tan|ln|log)([xyzt])(?![A-Za-z])", r"\1 \2"), (r"(?<=[)\]])\s*U\s*(?=[(\[])", r" \\cup "),
        (r"(?<![A-Za-z\\])(?:PI|Pi)(?![A-Za-z])", "pi"), (r"^([A-Za-z]) in (?=[\[({])", r"\1 \\in "),
        (r"\^\{(\d+)\}\s*/\s*_\{(\d+)\}", r"\\frac{\1}{\2}"),
        (r"\{\s*([^{}\\]+?)\s*\\choose\s*([^{}\\]+?)\s*\}", r"\\binom{\1}{\2}"),
    ]
]  # fmt: skip
_MEANINGLESS = re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])")
#: What joins answers to a list, and the signs of relations.
AND = re.compile(r"[,;]?\s*\"?\s*(?<![A-Za-z])(?:and|or)(?![A-Za-z])\s*\"?\s*|\s*\"\s*[,;]\s*(?:and|or)?\s*\"\s*")
RELATION = re.compile(r"\\(?:le|ge|ne|in|approx|equiv|sim)(?![A-Za-z])|[<>=]")
OPENING, CLOSING = frozenset("([{⟨"), frozenset(")]}⟩")
DEGREE = "\N{DEGREE SIGN}"  #: how a degree is written here


def plain(answer: str) -> str:
    r"""An answer in the one notation.

    >>> plain("2½"), plain(r"\dfrac{1}{2} \text{ cm}."), plain("x² ≤ 3")
    ('2\\frac{1}{2}', '\\frac{1}{2} "cm"', 'x^{2} \\le 3')
    """
    if not answer.isascii():
        answer = _from_unicode(answer)
    answer = _without_delimiters(answer)
    if "\\" in answer or "~" in answer or "{,}" in answer:
        answer = _from_latex(answer)
    answer = _from_ascii(answer)
    return without_trailing_points(" ".join(answer.split()))


def _from_ascii(answer: str) -> str:
    """What people and computer algebra systems write in plain text."""
    if "*" in answer:  # a system's own names of the constants
        answer = re.sub(r"(?<![A-Za-z\\])([IE])(?![A-Za-z])", lambda m: m[1].lower(), answer.replace("**", "^"))
    for pattern, instead in _ASCII:
        answer = pattern.sub(instead, answer)
    return answer


def lightly(answer: str) -> str:
    """An answer with its layout, which means something in a matrix: only what stands around it is taken off."""
    return without_trailing_points(" ".join(_without_delimiters(_from_unicode(answer)).split()))


def squeezed(text: str) -> str:
    """A text without the spaces that mean nothing: 1 2 is not 12."""
    return _MEANINGLESS.sub("", text)


def without_trailing_points(answer: str) -> str:
    """An answer without the full stop or comma of the sentence that it ends."""
    while answer and (answer[-1] in ",;:" or (answer[-1] == "." and not answer.endswith(("...", ".m.")))):
        answer = answer[:-1].rstrip()
    return answer[:-1].rstrip() if _EXCLAIMED.fullmatch(answer) else answer


def _from_unicode(answer: str) -> str:
    answer = _OVERLINED.sub(lambda m: rf"\overline{{{m[1].replace(chr(0x305), '')}}}", answer)
    answer = _RAISED.sub(lambda m: "^{" + "".join(map(_SUPERSCRIPTS.__getitem__, m[0])) + "}", answer)
    answer = _LOWERED.sub(lambda m: "_{" + "".join(map(_SUBSCRIPTS.__getitem__, m[0])) + "}", answer)
    answer = answer.translate(_CHARACTERS)
    while (root := _ROOT.search(answer)) is not None:
        order, radicand = root[1] or "", root[2]
        if radicand in "({":
            answer = f"{answer[: root.start()]}\\sqrt{order}{answer[root.start(2) :]}"
        else:
            answer = f"{answer[: root.start()]}\\sqrt{order}{{{radicand}}}{answer[root.end() :]}"
    return answer if answer.isascii() else _compatible(answer)


def _compatible(answer: str) -> str:
    """Full-width and styled letters and digits as plain ones; money signs stay."""
    return unicodedata.normalize("NFKC", answer)


def _quoted(text: re.Match[str]) -> str:
    """A text with letters or digits in quotes; one of punctuation alone is punctuation."""
    inner = text[1].strip()
    return f' "{inner}" ' if any(map(str.isalnum, inner)) else f" {inner} "


def _without_delimiters(answer: str) -> str:
    """Without what stands around mathematics or emphasis: dollars, brackets of LaTeX, Markdown's stars."""
    answer = answer.strip()
    if "$" in answer:
        if answer.startswith("$$") and answer.endswith("$$") and len(answer) > 4:
            answer = answer[2:-2]
        # An even number of dollars delimits; a single one, or an escaped one, is money.
        elif answer.replace("\\$", "").count("$") % 2 == 0:
            answer = re.sub(r"(?<!\\)\$", " ", answer)
    if "\\(" in answer or "\\[" in answer:
        answer = re.sub(r"\\[()]|(?<!\\)\\[\[\]]", " ", answer)
    answer = answer.strip()
    if len(answer) > 2 and answer[0] == answer[-1] == "'":
        answer = answer[1:-1]
    emphasised = _MARKUP.fullmatch(answer)
    if emphasised and "*" not in (inner := next(filter(None, emphasised.groups()))):
        answer = inner
    return answer


def _from_latex(answer: str) -> str:
    answer = _LAYOUT.sub("", answer)
    answer = answer.replace("\\$", "$").replace("\\%", "%").replace("\\&", "&").replace("\\#", "#")
    while _GROUPING.search(answer):
        answer = _GROUPING.sub("", answer)
    answer = _LAYOUT_SPACE.sub(" ", answer)
    for pattern, name in _SYNONYMS:
        answer = pattern.sub(name, answer)
    answer = _DEGREES.sub(DEGREE, answer)
    for latex, sign in _TUPLES.items():
        answer = re.sub(re.escape(latex) + r"(?![A-Za-z])", sign, answer)
    for _ in range(3):  # texts in texts
        answer, count = _TEXT.subn(_quoted, _EMPHASIS.sub(r"\1", answer))
        if not count:
            break
    answer = re.sub(r"\\(?:lt|gt)(?![A-Za-z])", lambda m: "<" if m[0] == r"\lt" else ">", answer)
    return answer


def unwrapped(text: str) -> str:
    """Without braces or quotes around all of it."""
    text = text.strip()
    while len(text) > 1 and text[0] in '{"':
        closes = text.find('"', 1) if text[0] == '"' else closing(text, 0)
        if closes != len(text) - 1:
            break
        text = text[1:-1].strip()
    return text


def closing(text: str, opening: int) -> int:
    """Where the bracket that is opened at a place is closed, whatever kind closes it; -1 if nowhere."""
    depth = 0
    for place in range(opening, len(text)):
        if text[place] in OPENING:
            depth += 1
        elif text[place] in CLOSING:
            depth -= 1
            if depth == 0:
                return place
    return -1
