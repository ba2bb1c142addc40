"""What renderers show: tables, charts, the report of a run, and the page of several. Values only, nothing escaped.

What is recorded, and what is found in it, is in `records.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bfo_diag.records import Finding


@dataclass(frozen=True)
class Cell:
    """A cell of a table that is to catch the eye (`bad`), or not to (`muted`), or that log lines prove (from 1)."""

    text: str
    tone: str = ""
    evidence: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table:
    """A section of a report: rows of values under column heads. A cell that was not measured says why."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Progress:
    """How far a capture is, for the person who waits; no fact, and never on record."""

    done: int
    total: int | None
    doing: str
    left_s: float | None = None
    table: Table | None = None
    """The latest figures, to be drawn under the progress line: at most `store.PROGRESS_ROWS` rows."""


@dataclass(frozen=True)
class Series:
    """What a chart draws under one name: points (x, y), and where measured the interval (low, high) of each y.

    Lines of one `group` (the seeds of an arm) have one look and one label, the group's. What `tone` says stands out:
    "control", the one that the others are compared with; of a lineage "alive", at the last step.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    intervals: tuple[tuple[float, float], ...] = ()
    evidence: tuple[int, ...] = ()
    parents: tuple[str, ...] = ()
    """Names of the series that a neuron descends from; none of a founder, and of one that was made from nothing."""
    group: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Axis:
    """One of the vertical axes of a `parallel` chart, from `low` to `high`.

    `ticks` are the levels of a factor: (position, label), the positions 0, 1, 2 for levels that are no numbers. An axis
    without them is continuous, and has round figures. On a logarithmic one positions are the values themselves.
    """

    name: str
    ticks: tuple[tuple[float, str], ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False


@dataclass(frozen=True)
class Chart:
    """A figure of one of five kinds.

    - `lines` draws y over x, one look a series or a group.
    - `intervals` draws a row a series, its y with its interval, beside `reference`.
    - `heatmap` draws a row a series, a column an x, and y as the shade (with `log_y`, on a logarithmic scale).
    - `lineage` draws the neurons of a layer over steps. A series is a neuron: its `name` the serial number, its
      `points` ((step of birth, row), (step of death or the last one, row)), with its `parents` and whether it is
      "alive". Founders are those that live at the first step. All neurons are given: which of them have room is the
      drawing's business, and founders that lived throughout without children are drawn as one band.
    - `parallel` draws a vertical axis for each of `axes`, the metric last, and a line a series, an arm of a sweep: its
      `points` are (index of the axis, position). The arms stand best first: their shade is by that order. An arm
      without a point on the last axis has failed, and stands behind the others.

    A value that was not measured is NaN, or no point. The names of the axes hold their units. Whoever can't see the
    chart reads `caption` and the series as a table.
    """

    kind: str
    title: str
    x_axis: str
    y_axis: str
    series: tuple[Series, ...]
    caption: str = ""
    log_x: bool = False
    log_y: bool = False
    reference: float | None = None
    axes: tuple[Axis, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a renderer shows of one run: a verdict, then sections in their order. Values only, nothing escaped."""

    verdict: str
    clean: bool
    tables: tuple[Table, ...]
    findings: tuple[Finding, ...]
    lines: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True)
class Excerpt:
    """Source lines around a finding's place; `first` is the number of the first of `lines`, from 1."""

    file: str
    first: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """One run on a page: what was run, its report, the log lines that its evidence names, and the source at hand.

    `log` maps the number of a line of `observations.jsonl` (from 1) to its text; `log_file` says where that file is.
    `excerpts` maps a finding's `(file, line)` to the source around it.
    """

    run_id: str
    probe: str
    target: str
    command: str
    started_utc: str
    outcome: str
    report: Report
    log_file: str
    log: Mapping[int, str] = field(default_factory=dict)
    excerpts: Mapping[tuple[str, int], Excerpt] = field(default_factory=dict)


@dataclass(frozen=True)
class Review:
    """What a page shows: the verdict over all runs first, then a section for each run.

    `environment` holds (name, value) pairs; `questions` are those of the person who asks for help; `missing` says for
    each probe that has no run why it was not measured.
    """

    title: str
    verdict: tuple[str, ...]
    clean: bool
    sections: tuple[Section, ...]
    environment: tuple[tuple[str, str], ...] = ()
    questions: tuple[str, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
