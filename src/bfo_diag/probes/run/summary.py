"""A training as tables, figures, summary and verdict. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from bfo_diag.probes.run import shift, turnover
from bfo_diag.probes.run.results import Fold, Line, Spread, compiled, declined, folds, over_folds, recipe
from bfo_diag.records import Finding, JSONValue, Run
from bfo_diag.shown import Cell, Chart, Series, Table

_FIGURES = ("val_loss", "val_accuracy")
_WHY = {"epochs": "all epochs", "patience": "no better epoch", "diverged": "diverged"}


def tables(run: Run) -> Iterator[Table]:
    """Yield the folds."""
    found = folds(run)
    if found:
        yield Table(
            title="Folds: the epoch whose weights were kept",
            columns=("fold", "epochs", "best", "ended by", "train loss", "val loss", "val accuracy", "epoch time"),
            rows=tuple(_row(fold) for fold in found),
            caption="; ".join(_about(run)),
        )
    reports = compiled(run)
    if reports:
        yield Table(
            title="Compile: what was applied",
            columns=("fold", "status", "calls compiled", "graphs", "breaks", "recompiles", "fallbacks", "why"),
            rows=tuple(_audit(line) for line in reports),
            caption=f"mode {reports[0][1]['mode']}, backend {reports[0][1]['backend']}; calls: of the model, also "
            "to validate it",
        )
    yield from turnover.tables(run)
    yield from shift.tables(run)


def details(run: Run) -> Iterator[Table]:
    """Yield what compile met on its way, text by text, and which neurons died and were born."""
    met = [
        (str(report["fold"]), kind, Cell(text, "", (number,)))
        for number, report in compiled(run)
        for kind, texts in (
            ("graph break", report["breaks"]),
            ("recompile", report["recompiles"]),
            ("recompile limit", report["limit_hits"]),
            ("fallback", [f"{found['where']}: {found['error']}" for found in report["fallbacks"]]),
        )
        for text in texts
    ]
    if met:
        yield Table("Compile: what it met", ("fold", "what", "why"), tuple(met))
    yield from turnover.details(run)


def _audit(line: Line) -> tuple[str | Cell, ...]:
    number, report = line
    tone = "bad" if report["status"] == "NOT APPLIED" and not declined(report) else ""
    decision = report["decision"]
    return (
        str(report["fold"]),
        Cell(_status(report), tone, (number,)),
        f"{report['calls_compiled']} of {report['calls']}",
        str(report["graphs"]),
        *(str(len(report[name])) for name in ("breaks", "recompiles", "fallbacks")),
        declined(report) or report["reason"] or ("" if decision is None else decision["why"]) or "-",
    )


def _status(report: Mapping[str, JSONValue]) -> str:
    """Return `applied`, `partial`, `not applied`, or that "auto" decided against it."""
    return "eager, as decided" if declined(report) else str(report["status"]).lower()


def _row(fold: Fold) -> tuple[str | Cell, ...]:
    why = "not at its end" if fold.end is None else _WHY.get(fold.end[1]["why"], str(fold.end[1]["why"]))
    ended = Cell(why, "bad" if why == "diverged" else "muted" if fold.end is None else "", fold.lines[-1:])
    times = [values["epoch_s"] for _, values in fold.epochs]
    took = f"{math.fsum(times) / len(times):.2g} s"
    head = (str(fold.number), Cell(str(len(fold.epochs)), "", fold.lines))
    if fold.best is None:
        return (*head, "-", ended, *("not measured: no finite loss",) * 3, took)
    number, best = fold.best
    return (
        *head,
        str(best["epoch"]),
        ended,
        f"{best['train_loss']:.4g}",
        Cell(f"{best['val_loss']:.4g}", "", (number,)),
        Cell(f"{best['val_accuracy']:.2%}", "", (number,)),
        took,
    )


def _about(run: Run) -> Iterator[str]:
    """Yield in words what the validation figures are of, and what the run goes on from."""
    for _, observation in run.of_kind("data"):
        values = observation.values
        yield f"validated on {values['held_back']} of {values['samples']} samples of {values['name']}"
    for _, observation in run.of_kind("resumed"):
        values = observation.values
        yield f"gone on from {values['from']} after epoch {values['epoch']} of fold {values['fold']}"


def charts(run: Run) -> Iterator[Chart]:
    """Yield the losses over epochs, and the norm of the gradient over steps."""
    found = folds(run)
    series = []
    for fold in found:
        of = f"fold {fold.number}, " if len(found) > 1 else ""
        for figure, word in (("train_loss", "training"), ("val_loss", "validation")):
            points = tuple((float(values["epoch"]), values[figure]) for _, values in fold.epochs)
            series.append(Series(of + word, points, evidence=tuple(number for number, _ in fold.epochs)))
    if series:
        caption = "mean cross-entropy; training: while the epoch went on, validation: after it"
        caption += ", on A throughout" if shift.epochs(run) else ""
        yield Chart("lines", "Loss", "epoch", "loss (nats)", tuple(series), caption)
    yield from shift.charts(run)
    norms = _norms(run)
    if norms:
        caption = "ord-2 norm over all parameters, before clipping"
        yield Chart("lines", "Gradient", "step", "total norm", norms, caption, log_y=True)
    yield from turnover.charts(run)


def _norms(run: Run) -> tuple[Series, ...]:
    seen: dict[int, list[tuple[int, float, float]]] = {}
    for number, observation in run.of_kind("gradients"):
        values = observation.values
        if values["total_norm"] is not None:
            seen.setdefault(values["fold"], []).append((number, float(values["step"]), values["total_norm"]))
    return tuple(
        Series(f"fold {fold}", tuple((x, y) for _, x, y in lines), evidence=tuple(n for n, _, _ in lines))
        for fold, lines in sorted(seen.items())
    )


def summarise(run: Run) -> dict[str, JSONValue]:
    """Return the figures of each fold and over the folds."""
    found = folds(run)
    return {
        "folds": [_fold(fold) for fold in found],
        **{figure: _spread(over_folds(found, figure)) for figure in _FIGURES},
        "compile": [dict(report) for _, report in compiled(run)],
        "turnover": turnover.summarise(run),
        "shift": shift.summarise(run),
        "resumed": next((dict(o.values) for _, o in run.of_kind("resumed")), None),
    }


def _fold(fold: Fold) -> dict[str, JSONValue]:
    best = None if fold.best is None else fold.best[1]
    end = {} if fold.end is None else fold.end[1]
    return {
        "fold": fold.number,
        "epochs": len(fold.epochs),
        "why": end.get("why"),
        "weights": end.get("weights"),
        "best_epoch": None if best is None else best["epoch"],
        **{figure: None if best is None else best[figure] for figure in ("train_loss", *_FIGURES)},
    }


def _spread(found: Spread | None) -> dict[str, JSONValue] | None:
    return None if found is None else {"mean": found.mean, "standard_deviation": found.deviation}


def measured(run: Run) -> bool:
    """Whether an epoch came to its end."""
    return bool(folds(run))


def verdict(run: Run, findings: tuple[Finding, ...]) -> str:
    """Return the losses in one line."""
    found = folds(run)
    if not found:
        return "Nothing was measured: no epoch came to its end."
    whole = [fold for fold in found if fold.end is not None and fold.best is not None]
    planned = recipe(run).get("training", {}).get("folds", len(found))
    loss, accuracy = (over_folds(found, figure) for figure in _FIGURES)
    if loss is None or accuracy is None:
        ended = sum(fold.end is not None for fold in found)
        last = found[-1]
        if not ended and last.best is not None:
            best = last.best[1]
            return (
                f"Not at its end: fold {last.number} of {planned} after epoch {len(last.epochs)}; validation loss so "
                f"far {best['val_loss']:.4g}, accuracy {best['val_accuracy']:.2%}, at epoch {best['epoch']}."
            )
        return f"No fold was trained: {ended} of {planned} came to an end, and none with a finite loss."
    counted = f" over {len(whole)} of {planned} folds" if planned > 1 or len(whole) < planned else ""
    about = _compile(run) + turnover.verdict(run) + shift.verdict(run)
    return f"Validation loss {_said(loss, '.4g')}, accuracy {_said(accuracy, '.2%')}{counted}.{about}"


def _compile(run: Run) -> str:
    """Return what became of compile, in half a line."""
    found = list(dict.fromkeys(_status(report) for _, report in compiled(run)))
    return f" Compile: {', '.join(found)}." if found else ""


def _said(found: Spread, form: str) -> str:
    return f"{found.mean:{form}}" + ("" if found.deviation is None else f" ± {found.deviation:{form}}")
