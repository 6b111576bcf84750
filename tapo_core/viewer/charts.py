"""Curves as SVG: what a chart shows, and where on the picture it goes. The template `chart.html` only writes it down."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 10, 10, 26
_MOST_DOTS = 150  #: points of a line beyond which dots would be one another's blot


@dataclass(frozen=True, slots=True)
class Point:
    """A value at an iteration, with its interval when it has one."""

    iteration: int
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture. `note` says what its intervals are."""

    title: str
    series: Sequence[Series]
    note: str = ""
    percent: bool = False  #: shares, from 0 to 100%


@dataclass(frozen=True, slots=True)
class Dot:
    """One point on the picture, with the ends of its interval."""

    iteration: int
    x: float
    y: float
    low: float | None
    high: float | None
    told: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line on the picture. `number` says which look it has."""

    number: int
    name: str
    path: str
    band: str | None  #: outline of its intervals
    dots: Sequence[Dot]


@dataclass(frozen=True, slots=True)
class Tick:
    """A number on an axis, and where."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """A chart laid out."""

    chart: Chart
    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    told: str  #: what the picture shows, in words
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    bottom: float = HEIGHT - _BOTTOM


def draw(chart: Chart) -> Drawn | None:
    """Lay a chart out; None when it has no point."""
    series = [Series(one.name, [p for p in one.points if math.isfinite(p.value)]) for one in chart.series]
    series = [one for one in series if one.points]
    points = [point for one in series for point in one.points]
    if not points:
        return None
    first, last = min(p.iteration for p in points), max(p.iteration for p in points)
    low, high = (
        (0.0, 1.0) if chart.percent else _range([v for p in points for v in (p.value, p.low, p.high) if v is not None])
    )

    def x(iteration: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * (iteration - first) / max(1, last - first), 1)

    def y(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low), 1)

    def told(value: float) -> str:
        return f"{value:.1%}" if chart.percent else f"{value:.4g}"

    def line(number: int, one: Series) -> Line:
        dots = [
            Dot(
                p.iteration,
                x(p.iteration),
                y(p.value),
                None if p.low is None else y(p.low),
                None if p.high is None else y(p.high),
                f"{one.name}, iteration {p.iteration}: {told(p.value)}"
                + ("" if p.low is None or p.high is None else f" ({told(p.low)} to {told(p.high)})"),
            )
            for p in one.points
        ]
        whole = len(dots) > 1 and all(dot.low is not None and dot.high is not None for dot in dots)
        outline = [(d.x, d.high) for d in dots] + [(d.x, d.low) for d in reversed(dots)]
        band = " ".join(f"{across},{up}" for across, up in outline) if whole else None
        path = " ".join(f"{d.x},{d.y}" for d in dots)
        return Line(number, one.name, path, band, dots if len(dots) <= _MOST_DOTS else ())

    return Drawn(
        chart,
        [line(number, one) for number, one in enumerate(series, start=1)],
        [Tick(x(at), f"{at:g}") for at in _ticks(first, last, 6) if at == int(at)],
        [Tick(y(at), f"{at:.0%}" if chart.percent else f"{at:.4g}") for at in _ticks(low, high, 5)],
        "; ".join(
            f"{one.name}: {told(one.points[0].value)} at iteration {one.points[0].iteration}, "
            f"{told(one.points[-1].value)} at iteration {one.points[-1].iteration}"
            for one in series
        ),
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest, with some air; never the same."""
    low, high = min(values), max(values)
    air = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - air, high + air


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two others."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(step * n, 12) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
