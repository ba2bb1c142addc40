"""Who is born, and how the dying leave. Each module here holds one `INITIALISER`.

An initialiser plans on the values of a `View`; the manager has `surgery` carry it out.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from pytorch_bfo_optimizer.errors import HyperparameterError
from pytorch_bfo_optimizer.turnover.scanning import classes
from pytorch_bfo_optimizer.turnover.surgery import Births
from pytorch_bfo_optimizer.turnover.view import View


@dataclass(frozen=True)
class Fold:
    """What is added to the consumers so that survivors do what the dying did."""

    weights: tuple[Tensor, ...]
    """(O, H) for each consumer."""
    biases: tuple[Tensor | None, ...]
    """(O,) for each consumer; None for one without a bias."""


@dataclass(frozen=True)
class Plan:
    """What is to happen to the K neurons of a turnover."""

    births: Births
    parents: tuple[tuple[int, ...], ...]
    """Slots of the parents of each newborn."""
    why: str
    """The initialiser, in words, with what it measured."""
    fold: Fold | None = None
    """Done before the newborn take the slots."""


@dataclass(frozen=True)
class Initialiser:
    """Base of all initialisers; a class of your own overrides `plan`."""

    name: ClassVar[str]
    """The class's, where it does not say."""
    over: int = field(default=0, init=False)
    """Steps over which the dying fade before they are replaced."""
    kept_rows: int = field(default=0, init=False)
    """How many recent inputs of the producer it wants."""

    def __init_subclass__(cls) -> None:
        """Name what has no name."""
        super().__init_subclass__()
        cls.name = vars(cls).get("name", cls.__name__)

    def plan(self, view: View, dying_K: Tensor, count: int) -> Plan:
        """Plan `count` newborn in the place of the dying (slots (K,), count = K), or, if none die, in new slots."""
        raise NotImplementedError(f"the initialiser {self.name} has no plan(view, dying_K, count)")


def fresh(view: View, count: int) -> tuple[Tensor, Tensor | None]:
    """Return incoming weights (K, I) and biases (K,) as `nn.Linear` draws them: uniform within 1 / sqrt(I)."""
    bound = 1 / math.sqrt(max(1, view.incoming.shape[1]))
    weight_KI = (2 * view.uniform((count, view.incoming.shape[1])) - 1) * bound
    return weight_KI, None if view.bias is None else (2 * view.uniform((count,)) - 1) * bound


def silent(view: View, count: int) -> tuple[Tensor, ...]:
    """Return outgoing weights of zero, (O, K) for each consumer: nothing downstream changes."""
    return tuple(weight_OH.new_zeros(len(weight_OH), count) for weight_OH in view.outgoing)


def mutated(view: View, parents_K: Tensor, scale: float) -> tuple[Tensor, Tensor | None]:
    """Return the parents' incoming weights (K, I) and biases (K,), plus noise of `scale` standard deviations."""
    parents_K = parents_K.to(view.incoming.device)
    return noisy(view, view.incoming, scale)[parents_K], (
        None if view.bias is None else noisy(view, view.bias, scale)[parents_K]
    )


def noisy(view: View, values: Tensor, scale: float) -> Tensor:
    """Return values plus normal noise of `scale` times their standard deviation."""
    return values + scale * values.std(correction=0) * view.normal(values.shape)


def singly(parents_K: Tensor) -> tuple[tuple[int, ...], ...]:
    """Return one parent for each."""
    return tuple((parent,) for parent in parents_K.tolist())


@functools.cache
def load_all() -> dict[str, type[Initialiser]]:
    """Import every module of this folder and return its initialisers by name.

    Raises:
        TypeError: a module without an `INITIALISER`.
    """
    return classes(__name__, __path__, "INITIALISER", Initialiser)


def as_initialiser(replace: str | Initialiser) -> Initialiser:
    """Return the initialiser of a name with its default settings; an initialiser is returned as it is.

    Raises:
        HyperparameterError: neither.
    """
    if isinstance(replace, Initialiser):
        return replace
    known = load_all()
    if replace not in known:
        raise HyperparameterError(
            f"replace is {replace!r}: use one of {', '.join(map(repr, known))}, or an Initialiser of your own"
        )
    return known[replace]()
