"""Times of day and dates."""

import re
from fractions import Fraction

from tapo_core.verification.kinds import Answer, Ratio, Time, Unread, Words

_CLOCK = re.compile(
    r"(\d{1,2})\s*:\s*(\d{2})(?:\s*:\s*(\d{2}))?\s*\"?\s*(?:([ap])\s*\.?\s*m\s*\.?)?\s*\"?", re.IGNORECASE
)
_POINT = re.compile(r"(\d{1,2})\.(\d{2})(\s*\"?\s*[ap]\s*\.?\s*m\s*\.?\s*\"?)", re.IGNORECASE)
_HOUR = re.compile(r"(\d{1,2})\s*\"?\s*([ap])\s*\.?\s*m\s*\.?\s*\"?", re.IGNORECASE)
_DAY_TIMES = {"noon": "12:00 pm", "12 noon": "12:00 pm", "midnight": "12:00 am", "12 midnight": "12:00 am"}
_MONTH_NAMES = "january february march april may june july august september october november december"
_MONTHS = {name[:length]: number for number, name in enumerate(_MONTH_NAMES.split(), 1) for length in (3, len(name))}
_MONTH = r"(?P<month>" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\.?"
_DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_MONTH}\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:\s*,?\s*(?P<year>\d{{4}}))?",
        rf"(?P<day>\d{{1,2}})\s*(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?:\s*,?\s*(?P<year>\d{{4}}))?",
        r"(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})",
    )
]
#: Which of the first two is the month, nobody knows.
_NUMERIC = re.compile(r"(\d{1,2})\s*[/.-]\s*(\d{1,2})\s*[/.-]\s*(\d{4})")


def time(text: str) -> Answer | None:
    """A time of day; a ratio that may be one."""
    text = _DAY_TIMES.get(text.lower(), text)
    match = _CLOCK.fullmatch(_POINT.sub(r"\1:\2\3", text))
    if match:
        hour, minute, second, half = int(match[1]), int(match[2]), int(match[3] or 0), match[4]
    else:
        match = _HOUR.fullmatch(text)
        if match is None:
            return None
        hour, minute, second, half = int(match[1]), 0, 0, match[2]
    if minute > 59 or second > 59 or hour > 24 or (half and not 1 <= hour <= 12):
        return None if half is None else Unread(text, "it is no time of day")
    told = f"{half.lower()}m" if half else ("24" if hour > 12 or hour == 0 else None)
    if half:
        hour = hour % 12 + (12 if told == "pm" else 0)
    time = Time(text, (3600 * hour + 60 * minute + second) % 86400, told)
    if half:
        return time
    parts = tuple(Fraction(part) for part in (match[1], match[2], match[3]) if part is not None)
    return Ratio(text, parts, time)


def date(text: str) -> Words | None:
    """A date, as year, month and day."""
    bare = text.replace('"', " ").strip()
    numeric = _NUMERIC.fullmatch(bare)
    if numeric:
        return Words(text, tuple(str(int(part)) for part in numeric.groups()))
    match = next((found for pattern in _DATES if (found := pattern.fullmatch(bare))), None)
    if match is None:
        return None
    month = match["month"].lower()
    number = int(month) if month.isdecimal() else _MONTHS[month]
    return Words(text, (match["year"] or "", f"month {number}", str(int(match["day"]))))
