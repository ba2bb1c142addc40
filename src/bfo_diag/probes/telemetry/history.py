"""A telemetry run as histories: of each case its samples, and of each tensor its norms. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bfo_diag.records import Run


@dataclass(frozen=True)
class Point:
    """A tensor's gradient in one sample; `line` is that of the log (from 1), `norm` is None where there was none."""

    line: int
    step: int
    norm: float | None
    zero_share: float | None

    @property
    def finite(self) -> bool:
        """Whether there is a norm, and it is a number."""
        return self.norm is not None and math.isfinite(self.norm)


@dataclass
class Tensor:
    """One parameter over the samples; `place` is its number in the order of the model, from the input on."""

    name: str
    shape: tuple[int, ...]
    place: int
    points: list[Point] = field(default_factory=list)

    @property
    def norms(self) -> list[float]:
        """The finite norms, in the order of the steps."""
        return [point.norm for point in self.points if point.norm is not None and point.finite]

    @property
    def layer(self) -> str:
        """The module it belongs to, by its name."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def lines(self) -> tuple[int, ...]:
        """The first and the last line of the log that tell of it."""
        return tuple(dict.fromkeys((self.points[0].line, self.points[-1].line))) if self.points else ()


@dataclass(frozen=True)
class Sample:
    """All gradients of one source (an optimizer's parameters, say) in one step."""

    line: int
    step: int
    source: int
    values: Mapping[str, Any]
    stepped: bool


@dataclass
class History:
    """One case: its tensors by name in the order of the model, its samples and losses in the order of the steps."""

    case: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    losses: list[tuple[int, int, float | None]] = field(default_factory=list)
    """(line, step, loss)."""
    _sources: dict[int, list[str]] = field(default_factory=dict)
    _stepped: bool = False

    @property
    def steps(self) -> list[int]:
        """The steps that were sampled."""
        return [step for _, step, _ in self.losses]

    @property
    def steps_itself(self) -> bool:
        """Whether an optimizer steps in it at all."""
        return any(sample.stepped for sample in self.samples)

    def add_tensors(self, values: Mapping[str, Any]) -> None:
        """Take the names of a source."""
        self._sources[values["source"]] = list(values["names"])
        for name, shape in zip(values["names"], values["shapes"], strict=False):
            self.tensors.setdefault(name, Tensor(name, tuple(shape), len(self.tensors)))

    def add_step(self, line: int, step: int, values: Mapping[str, Any]) -> None:
        """Take a step that was sampled."""
        loss = values.get("loss")
        self.losses.append((line, step, None if loss is None else float(loss)))
        self._stepped = bool(values.get("optimizer_steps"))

    def add_sample(self, line: int, step: int, values: Mapping[str, Any]) -> None:
        """Take the gradients of a source in the step that was told last."""
        names = self._sources.get(values["source"], [])
        self.samples.append(Sample(line, step, values["source"], values, self._stepped))
        shares = values.get("zero_shares") or [None] * len(names)
        for name, norm, share in zip(names, values["norms"], shares, strict=False):
            self.tensors[name].points.append(Point(line, step, None if norm is None else float(norm), share))


def histories(run: Run) -> list[History]:
    """Return a history for each case of the run, in their order."""
    found: dict[str, History] = {}
    for line, observation in run.of_kind("tensors", "step", "gradients"):
        values = observation.values
        case = str(values.get("case", ""))
        history = found.setdefault(case, History(case))
        step = (observation.place.step if observation.place else None) or 0
        if observation.kind == "tensors":
            history.add_tensors(values)
        elif observation.kind == "step":
            history.add_step(line, step, values)
        else:
            history.add_sample(line, step, values)
    return list(found.values())
