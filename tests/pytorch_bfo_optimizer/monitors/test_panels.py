from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pytorch_bfo_optimizer import StepRecord
from pytorch_bfo_optimizer.monitors import MetricsTracker

Make = Callable[..., StepRecord]

pytest.importorskip("matplotlib", reason="pip install 'bfo-diag[plot]'")


def lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def test_four_panels_draw_the_series(record: Make) -> None:
    tracker = MetricsTracker(window=2)
    for step in range(1, 31):
        tracker(record(step, loss=math.inf if step == 3 else 2.0 / step))
    figure = tracker.plot()
    losses, diversity, size, rate = figure.axes
    at, series = list(range(1, 31)), tracker.series
    drawn = lines(losses)
    assert drawn["at the parameters"] == (at, series["best_loss"].tolist())
    assert drawn["lowest so far"] == (at, series["lowest"].tolist())
    assert drawn["of the step"][1] == pytest.approx([2, 1, math.nan, *[2 / step for step in at[3:]]], nan_ok=True)
    ((x, y),) = lines(diversity).values()
    assert (x, y) == (at, series["diversity"].tolist())
    ((x, y),) = lines(size).values()
    assert (x, y) == (at, series["step_size"].tolist())
    assert list(lines(rate).values())[1][1] == pytest.approx(tracker.convergence_rates(), nan_ok=True)
    assert [axes.get_title().split(":")[0].split(",")[0] for axes in figure.axes] == [
        "loss",
        "diversity",
        "step size",
        "convergence rate",
    ]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "log", "log", "linear"]
    assert [axes.get_xlabel() for axes in (size, rate)] == ["generation"] * 2


def test_a_scale_is_linear_where_numbers_are_not_positive_or_close_together(record: Make) -> None:
    tracker = MetricsTracker()
    for step in range(1, 31):
        tracker(record(step, loss=-1.0 / step, best_loss=-1.0 / step, diversity=1 + 0.1 * step))
    losses, diversity, *_ = tracker.plot().axes
    assert [losses.get_yscale(), diversity.get_yscale()] == ["linear", "linear"]


def test_one_step_and_panels_without_a_number_are_drawn_and_nothing_is_shown(
    record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # neither a window nor a backend is asked for
    tracker = MetricsTracker()
    tracker(record(1, step_size=None))
    figure = tracker.plot()
    _, diversity, size, rate = figure.axes
    assert [text.get_text() for axes in (diversity, size, rate) for text in axes.texts] == ["none", "none"]
    assert diversity.get_lines()[0].get_marker() == "."
    written = io.BytesIO()
    figure.savefig(written, format="png")
    assert written.getvalue().startswith(b"\x89PNG")


def test_without_matplotlib_the_error_names_the_extra(record: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = MetricsTracker()
    tracker(record(1))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"plot needs matplotlib .*: pip install 'bfo-diag\[plot\]'"):
        tracker.plot()
