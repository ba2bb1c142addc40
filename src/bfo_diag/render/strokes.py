"""What every kind of chart is drawn with: strokes, texts, and a ruler of ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

WIDTH = 400
"""Of a drawing, in the units of the SVG; a page gives it about as many pixels. Parallel axes may need more."""
MARGIN = 14
"""Free at the left and right of rows."""
CHARACTER = 6.2
"""About the width of a character of a tick or a name."""


@dataclass(frozen=True)
class Text:
    """A text at a place; `kind` and `look` are its classes in `chart.css`."""

    x: float
    y: float
    text: str
    kind: str
    look: int = -1


@dataclass(frozen=True)
class Path:
    """A path, as SVG's `d`, in the units of its `transform` where it has one; who points at it reads its `title`."""

    d: str
    kind: str
    look: int = -1
    transform: str = ""
    title: str = ""


@dataclass
class Drawing:
    """What the template writes down, in the order of painting; lengths in units of the SVG."""

    height: float
    paths: list[Path] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    width: float = WIDTH

    @property
    def wide(self) -> bool:
        """Whether it needs more room than a column of the page has."""
        return self.width > WIDTH

    def stroke(self, d: str, kind: str, look: int = -1, *, transform: str = "", title: str = "") -> None:
        """Add a path."""
        self.paths.append(Path(d, kind, look, transform, title))

    def write(self, x: float, y: float, text: str, kind: str, look: int = -1) -> None:
        """Add a text; `y` is its base line."""
        self.texts.append(Text(x, y, text, kind, look))

    def ruler(self, ticks: Iterable[tuple[float, str]], *, left: float, right: float, bottom: float) -> None:
        """Draw a horizontal axis with its ticks (place, label); labels that would touch the one before are left out."""
        self.stroke(f"M{at(left)} {at(bottom)}H{at(right)}", "ruler")
        taken = -math.inf
        for place, label in ticks:
            half = CHARACTER * len(label) / 2
            self.stroke(f"M{at(place)} {at(bottom)}v4", "ruler")
            if place - half > taken + 8:
                self.write(place, bottom + 17, label, "tick middle")
                taken = place + half


def not_measured(why: str = "") -> Drawing:
    """Return the drawing of a chart that has nothing to draw."""
    made = Drawing(height=96)
    made.stroke(f"M0.5 0.5H{WIDTH - 0.5}V95.5H0.5z", "empty")
    made.write(WIDTH / 2, 45 if why else 53, "not measured", "nothing middle")
    if why:
        made.write(WIDTH / 2, 65, why, "tick middle")
    return made


def at(value: float) -> str:
    """Return a coordinate to a tenth, without a trailing zero."""
    return f"{value:.1f}".removesuffix(".0")
