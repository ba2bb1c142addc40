"""Who dies. Each module here holds one `SELECTOR`, a class that gives each neuron of a layer a score.

The lowest score dies first. A selector reads; it changes nothing.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pytorch_bfo_optimizer.errors import HyperparameterError
from pytorch_bfo_optimizer.state import require_count, require_number
from pytorch_bfo_optimizer.turnover.observing import Activity
from pytorch_bfo_optimizer.turnover.scanning import classes
from pytorch_bfo_optimizer.turnover.view import View


@dataclass(frozen=True, kw_only=True)
class Selector:
    """Base of all selectors; a class of your own overrides `scores`, and `measure` where it has to watch training."""

    maturity: int = 0
    """Optimizer steps after its birth before a neuron may die; founders are mature."""
    decay: float = 0.99
    """Of the running average over steps; 0.99 looks back on about a hundred."""

    name: ClassVar[str]
    """The class's, where it does not say."""
    scored: ClassVar[str]
    """What the score is, in words; where it does not say, "score" and its name."""
    needs_activity: ClassVar[bool] = False
    """Whether `measure` reads activations."""
    watches: ClassVar[bool] = False
    """Whether `measure` measures anything."""

    def __init_subclass__(cls) -> None:
        """Name what has no name."""
        super().__init_subclass__()
        cls.name = vars(cls).get("name", cls.__name__)
        cls.scored = vars(cls).get("scored", f"score by {cls.name}")

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            HyperparameterError: naming the field, its value and the mend.
        """
        require_count("maturity", self.maturity, least=0, mend="100 steps are usual")
        require_number("decay", self.decay, low=0, high=1, open_high=True, mend="0.99 is usual")

    def measure(self, view: View, activity: Activity | None) -> tuple[Tensor, Tensor | float] | None:
        """Return a figure of each neuron (H,) and its weight in the average, once before each optimizer step.

        The sum of the figures by the sum of the weights is `View.average`. `.grad` is what the optimizer sees.
        None: there is nothing to be seen at this step.
        """
        return None

    def scores(self, view: View) -> Tensor:
        """Return a score of each neuron (H,); what is not finite loses every comparison."""
        raise NotImplementedError(f"the selector {self.name} has no scores(view)")

    def eligible(self, view: View) -> Tensor:
        """Return which neurons may die (H,), bool, on the CPU: those that are mature, known, and not fading."""
        eligible_H = ((view.ages >= self.maturity) | view.founders) & ~view.fading
        return eligible_H & ~view.average.isnan().cpu() if self.watches else eligible_H

    def choose(self, view: View, eligible_H: Tensor, count: int) -> Tensor:
        """Return the slots (at most count,) of those that die, the worst first."""
        scores_H = self.scores(view).cpu()
        lost_H = torch.where(scores_H.isfinite(), scores_H, -torch.inf)
        order_H = lost_H.argsort(stable=True)
        return order_H[eligible_H[order_H]][:count]


@functools.cache
def load_all() -> dict[str, type[Selector]]:
    """Import every module of this folder and return its selectors by name.

    Raises:
        TypeError: a module without a `SELECTOR`.
    """
    return classes(__name__, __path__, "SELECTOR", Selector)


def as_selector(select: str | Selector) -> Selector:
    """Return the selector of a name with its default settings; a selector is returned as it is.

    Raises:
        HyperparameterError: neither.
    """
    if isinstance(select, Selector):
        return select
    known = load_all()
    if select not in known:
        raise HyperparameterError(
            f"select is {select!r}: use one of {', '.join(map(repr, known))}, or a Selector of your own"
        )
    return known[select]()
