"""Charts as inline SVG: sharp at any zoom, light or dark with the page, a few kilobytes each.

Written out by hand: a chart's bytes depend on its numbers alone, and the page's own style sheet
colours it (classes such as `axis`, `pretrained`, `c3`). Every function returns safe markup with a
text alternative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

# How many colours the page's palette has (`c0` …); beyond it colours repeat, as other shapes.
COLOURS = 10


@dataclass(frozen=True)
class Line:
    """A curve of a line chart; `style` is a CSS class."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str


@dataclass(frozen=True)
class Scale:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Give the pixel of a value, to a tenth."""
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(self.start + share * (self.end - self.start), 1)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from within [low, high], a step of 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    size: tuple[int, int] = (340, 210),
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """Curves over a common x axis of whole numbers; points that are not finite are left out."""
    width, height = size
    points = [[(x, y) for x, y in zip(li.x, li.y, strict=True) if math.isfinite(y)] for li in lines]
    xs, ys = [x for p in points for x, _ in p], [y for p in points for _, y in p]
    if not ys:
        return Markup("")
    low, high = y_range or _padded(min(ys), max(ys))
    across = Scale(min(xs), max(xs), 64, width - 12)
    up = Scale(low, high, height - 34, 12)
    body = _grid(across, up, x_label)
    for line, curve in zip(lines, points, strict=True):
        path = " ".join(f"{across(x)},{up(y)}" for x, y in curve)
        body += Markup('<polyline class="line {}" points="{}"/>').format(line.style, path)
        if 0 < len(curve) <= 2:
            body += _dots(curve, across, up, line.style)
    alt = "; ".join(
        f"{li.name}: {_short(p[0][1])} to {_short(p[-1][1])}"
        for li, p in zip(lines[:6], points, strict=False)
        if p
    )
    return _svg(width, height, f"{title}. {alt}", body)


def dumbbells(
    pretrained: Sequence[float],
    scratch: Sequence[float],
    means: tuple[
        tuple[float, float | None, float | None], tuple[float, float | None, float | None]
    ],
) -> Markup:
    """One row a draw, a dot an arm, joined; the last rows hold the means with their intervals."""
    every = [v for v in (*pretrained, *scratch, *means[0], *means[1]) if v is not None]
    row, top, width = 26, 14, 680
    bottom = top + row * len(pretrained) + 10
    height = bottom + 2 * row + 44
    across = Scale(*_padded(min(every), max(every)), 108, width - 70)
    body = Markup("")
    for value in ticks(across.low, across.high, 6):
        x = across(value)
        body += Markup('<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
            x, top - 6, height - 38
        )
        body += _text(x, height - 22, _percent(value, across.high - across.low), "middle")
    body += _text(across((across.low + across.high) / 2), height - 5, "test accuracy", "middle")
    for i, (a, b) in enumerate(zip(pretrained, scratch, strict=True)):
        y = top + row * i + row / 2
        body += _text(98, y + 4, f"draw {i}", "end")
        body += Markup('<line class="join" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(
            across(a), across(b), y
        )
        body += _dot(across(b), y, "scratch") + _dot(across(a), y, "pretrained")
        body += _text(width - 62, y + 4, f"{100 * (a - b):+.1f} pts", "start")
    body += Markup('<line class="axis" x1="10" x2="{0}" y1="{1}" y2="{1}"/>').format(
        width - 8, bottom - 4
    )
    arms = zip(("pretrained", "scratch"), means, strict=True)
    for i, (arm, (mean, low, high)) in enumerate(arms):
        y = bottom + row * i + row / 2
        body += _text(98, y + 4, arm, "end", "strong")
        if low is not None and high is not None:
            body += Markup(
                '<line class="interval {0}" x1="{1}" x2="{2}" y1="{3}" y2="{3}"/>'
            ).format(arm, across(low), across(high), y)
        body += _dot(across(mean), y, f"{arm} mean")
    alt = "Accuracy of each draw: " + ", ".join(
        f"draw {i} pretrained {a:.1%}, scratch {b:.1%}"
        for i, (a, b) in enumerate(zip(pretrained, scratch, strict=True))
    )
    return _svg(width, height, alt, body)


def reliability(confidence: NDArray, accuracy: NDArray, count: NDArray, ece: float) -> Markup:
    """Accuracy over confidence against the diagonal; dot area and bars show how many images."""
    width, height, floor = 400, 400, 300
    across, up = Scale(0, 1, 46, width - 22), Scale(0, 1, floor, 12)
    body = _grid(across, up, "", percent=True)
    body += Markup('<line class="ideal" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        across(0), up(0), across(1), up(1)
    )
    path = " ".join(f"{across(x)},{up(y)}" for x, y in zip(confidence, accuracy, strict=True))
    body += Markup('<polyline class="line pretrained" points="{}"/>').format(path)
    most, bar = max(int(count.max()), 1), Scale(0, max(int(count.max()), 1), 0, 44)
    for x, y, n in zip(confidence, accuracy, count, strict=True):
        radius = round(3 + 5 * math.sqrt(n / most), 1)
        body += Markup('<circle class="dot pretrained" cx="{}" cy="{}" r="{}"/>').format(
            across(x), up(y), radius
        )
        body += Markup('<rect class="bar" x="{}" y="{}" width="12" height="{}"/>').format(
            round(across(x) - 6, 1), round(height - 26 - bar(n), 1), bar(n)
        )
    body += _text(230, height - 8, "confidence (bars: images)", "middle")
    alt = f"Reliability curve: accuracy against confidence, expected calibration error {ece:.3f}"
    return _svg(width, height, alt, body)


def confusion(counts: NDArray, classes: Sequence[str]) -> Markup:
    """Heat map of row shares: row actual, column predicted; numbers where there is room."""
    many = len(classes)
    cell = max(9, min(44, 620 // many))
    letters = min(max(len(name) for name in classes), 18)
    named = many <= 60
    margin = 14 + (letters * 6 if named else 8)
    side = margin + cell * many + 12
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    body = Markup("")
    for i in range(many):
        at = margin + cell * i
        for j in range(many):
            if counts[i, j]:
                body += _cell(margin + cell * j, at, cell, counts[i, j], shares[i, j], many)
        if named:
            name = _clip(classes[i], 18)
            small = "tiny" if cell < 14 else ""
            body += _text(margin - 6, at + cell / 2 + 4, name, "end", small)
            x = round(at + cell / 2 + 4, 1)
            body += Markup(
                '<text class="label {0}" transform="translate({1} {2}) rotate(-90)">{3}</text>'
            ).format(small, x, margin - 6, name)
    body += Markup('<rect class="frame" x="{0}" y="{0}" width="{1}" height="{1}"/>').format(
        margin, cell * many
    )
    alt = f"Confusion matrix of {many} classes; rows are actual, columns predicted classes"
    return _svg(side, side, alt, body)


def scatter(place: NDArray, labels: NDArray, classes: Sequence[str]) -> Markup:
    """Points coloured by class; the class names stand at the middle of their points."""
    width, height = 680, 560
    # The outermost points would squeeze all others into the middle.
    low, high = np.quantile(place, 0.002, axis=0), np.quantile(place, 0.998, axis=0)
    inside = np.clip(place, low, high)
    across, up = Scale(low[0], high[0], 16, width - 16), Scale(low[1], high[1], height - 16, 16)
    body, names = Markup(""), Markup("")
    for number, name in enumerate(classes):
        mine = inside[labels == number]
        if not len(mine):
            continue
        # One path a class: a dot is a line of length zero with round (or square) ends.
        path = "".join(f"M{across(x)} {up(y)}h0" for x, y in mine)
        body += Markup('<path class="points {}" d="{}"/>').format(class_style(number), path)
        if len(classes) <= 40:
            x, y = np.median(mine, axis=0)
            names += _text(across(x), up(y), _clip(name, 22), "middle", "halo")
    alt = f"Map of {len(place)} test images in the encoder's feature space, coloured by class"
    return _svg(width, height, alt, body + names)


def class_style(number: int) -> str:
    """The CSS classes of a class's points: a colour, and another shape each time colours repeat."""
    return f"c{number % COLOURS} {'round' if (number // COLOURS + number) % 2 == 0 else 'square'}"


def _cell(x: float, y: float, cell: int, count: int, share: float, many: int) -> Markup:
    body = Markup(
        '<rect class="heat" x="{0}" y="{1}" width="{2}" height="{2}" fill-opacity="{3}"/>'
    ).format(x, y, cell, round(float(share) ** 0.7, 3))
    if cell >= 26:
        tone = "on-dark" if share > 0.5 else "on-light"
        body += _text(x + cell / 2, y + cell / 2 + 4, str(count), "middle", f"{tone} tiny")
    return body


def _grid(across: Scale, up: Scale, x_label: str, percent: bool = False) -> Markup:
    body = Markup("")
    for value in ticks(up.low, up.high, 5):
        body += Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(
            across.start, across.end, up(value)
        )
        text = _percent(value, up.high - up.low) if percent else _short(value)
        body += _text(across.start - 6, up(value) + 4, text, "end")
    for value in ticks(across.low, across.high, 6):
        if percent or value == round(value):
            text = _percent(value, 1) if percent else _short(value)
            body += _text(across(value), up.start + 16, text, "middle")
    middle = (across.start + across.end) / 2
    return body + (_text(middle, up.start + 31, x_label, "middle") if x_label else "")


def _svg(width: float, height: float, alt: str, body: Markup) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {0} {1}" width="{0}" role="img" aria-label="{2}">{3}</svg>'
    ).format(round(width), round(height), alt, body)


def _text(x: float, y: float, text: str, anchor: str, style: str = "") -> Markup:
    return Markup('<text class="label {}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        style, round(x, 1), round(y, 1), anchor, escape(text)
    )


def _dot(x: float, y: float, style: str) -> Markup:
    return Markup('<circle class="dot {}" cx="{}" cy="{}" r="6"/>').format(style, x, round(y, 1))


def _dots(curve: Sequence[tuple[float, float]], across: Scale, up: Scale, style: str) -> Markup:
    return Markup("").join(
        Markup('<circle class="dot {}" cx="{}" cy="{}" r="4"/>').format(style, across(x), up(y))
        for x, y in curve
    )


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = 0.06 * (high - low) or 0.01 * max(abs(high), 1)
    return low - pad, high + pad


def _percent(value: float, spread: float) -> str:
    return f"{value:.1%}" if spread < 0.06 else f"{value:.0%}"


def _short(value: float) -> str:
    return f"{value:.4g}"


def _clip(name: str, letters: int) -> str:
    return name if len(name) <= letters else name[: letters - 1] + "…"
