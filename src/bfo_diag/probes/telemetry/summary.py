"""A telemetry run as tables, charts, summary and verdict. Needs no torch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

from bfo_diag.probes.telemetry.history import History, Sample, Tensor, histories
from bfo_diag.probes.telemetry.judge import EXPLODING_NORM, VANISHING_NORM
from bfo_diag.records import Finding, JSONValue, Run, Severity
from bfo_diag.shown import Cell, Chart, Series, Table

_LISTED = 40
_MOST_LINES, _LINKED = 8, 4


def tables(run: Run) -> Iterator[Table]:
    """Yield the tensors of each case, the gravest first."""
    found = histories(run)
    for history in found:
        ordered = sorted(history.tensors.values(), key=lambda tensor: (-_gravity(tensor), tensor.place))
        left = len(ordered) - _LISTED
        yield Table(
            title=_titled(found, history, f"gradients in {len(history.steps)} sample{'s' * (len(history.steps) != 1)}"),
            columns=("parameter", "shape", "first norm", "median", "least", "greatest", "zeros", ""),
            rows=tuple(_row(tensor) for tensor in ordered[:_LISTED]),
            caption="norms of ord 2; zeros: share of elements that are exactly zero, where counted last"
            + (f"; {left} more in the log" if left > 0 else ""),
        )


def _row(tensor: Tensor) -> tuple[str | Cell, ...]:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    norms, lines = tensor.norms, tensor.lines
    shares = [point.zero_share for point in tensor.points if point.zero_share is not None]
    zeros = f"{shares[-1]:.0%}" if shares else "not counted"
    word = _word(tensor)
    tone = "bad" if _gravity(tensor) else "muted"
    if not norms:
        return (tensor.name, shape, "-", "-", "-", "-", zeros, Cell(word, tone, lines))
    figures = (norms[0], statistics.median(norms), min(norms), max(norms))
    return (tensor.name, shape, *(Cell(f"{norm:.3g}", "", lines) for norm in figures), zeros, Cell(word, tone, lines))


def _word(tensor: Tensor) -> str:
    return ("healthy", "vanishing", "exploding", "zero", "no gradient", "not finite")[_gravity(tensor)]


def _gravity(tensor: Tensor) -> int:
    if any(point.norm is not None and not point.finite for point in tensor.points):
        return 5
    norms = tensor.norms
    if not norms:
        return 4
    if not any(norms):
        return 3
    if max(norms) > EXPLODING_NORM:
        return 2
    return int(statistics.median(norms) < VANISHING_NORM)


def charts(run: Run) -> Iterator[Chart]:
    """Yield of each case the norms of every tensor over the steps as a heat map, the curves over all, and the loss."""
    found = histories(run)
    for history in found:
        if len(history.steps) < 2:
            continue
        yield _heat_map(history, _titled(found, history, "gradient norm by parameter and step"))
        yield _curves(history, _titled(found, history, "gradient norm over the steps"))
        yield _health(history, _titled(found, history, "health of the gradients"))
        losses = [(line, step, loss) for line, step, loss in history.losses if loss is not None]
        if losses:
            points = tuple((float(step), loss) for _, step, loss in losses)
            series = Series("loss", points, evidence=_few([line for line, _, _ in losses]))
            title = _titled(found, history, "loss of the step")
            yield Chart(kind="lines", title=title, x_axis="step", y_axis="loss", series=(series,))


def _heat_map(history: History, title: str) -> Chart:
    # (The rows are read from the same lines: a few of them are linked, those at fault first.)
    gravest = sorted(history.tensors.values(), key=lambda tensor: -_gravity(tensor))[:_LINKED]
    rows = [
        Series(
            tensor.name,
            tuple((float(point.step), point.norm) for point in tensor.points if point.norm is not None),
            evidence=tensor.lines if tensor in gravest else (),
        )
        for tensor in history.tensors.values()
    ]
    return Chart(
        kind="heatmap",
        title=title,
        x_axis="step",
        y_axis="gradient norm (ord 2)",
        series=tuple(rows),
        caption="a row a parameter, the input's layer first",
        log_y=True,
    )


def _curves(history: History, title: str) -> Chart:
    # (The total of a sample with several sources is in the log, source by source; the curve follows the first.)
    samples = [sample for sample in history.samples if sample.source == history.samples[0].source]
    names = {"total": "total_norm", "greatest": "max_norm", "mean": "mean_norm", "least": "min_norm"}
    lines = _few([sample.line for sample in samples])
    made = [Series(name, _points(samples, key), evidence=lines) for name, key in names.items()]
    return Chart(
        kind="lines", title=title, x_axis="step", y_axis="gradient norm (ord 2)", series=tuple(made), log_y=True
    )


def _health(history: History, title: str) -> Chart:
    series = Series("health", _points(history.samples, "health"), evidence=_few([s.line for s in history.samples]))
    caption = "1 - 0.5 x share of vanishing tensors - 0.8 x share of exploding ones; 0 with any NaN or Inf"
    return Chart(kind="lines", title=title, x_axis="step", y_axis="health", series=(series,), caption=caption)


def _points(samples: list[Sample], key: str) -> tuple[tuple[float, float], ...]:
    values = [(sample.step, sample.values.get(key)) for sample in samples]
    return tuple((float(step), float(value)) for step, value in values if value is not None)


def _few(lines: list[int]) -> tuple[int, ...]:
    """Return the first and last lines: a page links to some of the log, not to a thousand."""
    return tuple(lines) if len(lines) <= _MOST_LINES else (*lines[: _MOST_LINES // 2], *lines[-_MOST_LINES // 2 :])


def _titled(found: list[History], history: History, title: str) -> str:
    return f"{history.case}: {title}" if len(found) > 1 else title[0].upper() + title[1:]


def summarise(run: Run) -> dict[str, JSONValue]:
    """Return the figures of each case."""
    return {"cases": [_summary(history) for history in histories(run)]}


def _summary(history: History) -> dict[str, JSONValue]:
    healths = _healths(history)
    return {
        "case": history.case,
        "samples": len(history.steps),
        "last_step": max(history.steps, default=None),
        "tensors": len(history.tensors),
        "least_health": min(healths, default=None),
        "mean_health": statistics.fmean(healths) if healths else None,
        "words": {tensor.name: _word(tensor) for tensor in history.tensors.values()},
        "total_norm": _ends(history, lambda sample: sample.values.get("total_norm")),
        "loss": [loss for _, _, loss in (history.losses[:1] + history.losses[-1:])],
    }


def _healths(history: History) -> list[float]:
    return [float(s.values["health"]) for s in history.samples if s.values.get("health") is not None]


def _ends(history: History, of: Callable[[Sample], Any]) -> list[Any]:
    return [of(sample) for sample in (history.samples[:1] + history.samples[-1:])]


def verdict(run: Run, findings: tuple[Finding, ...]) -> str:
    """Return the answer in one line."""
    found = [history for history in histories(run) if history.samples]
    if not found:
        return "Nothing was measured."
    grave = [finding for finding in findings if finding.severity.rank >= Severity.WARNING.rank]
    seen = "; ".join(_said(history, named=len(found) > 1) for history in found)
    if not grave:
        return f"Healthy: {seen}."
    words = {
        "TELEMETRY-NON-FINITE": "NaN or Inf in the gradients",
        "TELEMETRY-EXPLODING": "exploding gradients",
        "TELEMETRY-VANISHING": "vanishing gradients",
        "TELEMETRY-DEAD": "parameters whose gradient is always zero",
        "TELEMETRY-NO-GRADIENT": "parameters without a gradient",
    }
    told = ", ".join(dict.fromkeys(words[finding.code] for finding in grave if finding.code in words))
    return f"{told[:1].upper()}{told[1:]}: {seen}." if told else f"Watched: {seen}."


def _said(history: History, *, named: bool) -> str:
    healths = _healths(history)
    tensors, steps = len(history.tensors), max(history.steps, default=0)
    parts = [f"{tensors} tensor{'s' * (tensors != 1)} over {steps} step{'s' * (steps != 1)}"]
    if healths:
        low, mean = min(healths), statistics.fmean(healths)
        parts.append(
            f"health {low:.2f} throughout" if low == max(healths) else f"health {mean:.2f}, {low:.2f} at worst"
        )
    return (f"{history.case}, " if named else "") + ", ".join(parts)


def measured(run: Run) -> bool:
    """Whether a gradient was seen."""
    tensors = (tensor for history in histories(run) for tensor in history.tensors.values())
    return any(point.norm is not None for tensor in tensors for point in tensor.points)
