"""Eight test functions, plain and shifted-rotated, for numpy and for torch; each has the minimum value 0.

The functions that no setting was ever tuned on are in `held_out`; optimizers are in `runners`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Variant = Literal["plain", "shifted-rotated"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)


def count_up(dim: int) -> Array:
    """1, 2, ..., D."""
    return np.arange(1, dim + 1, dtype=np.float64)


def at(coordinate: float) -> Callable[[int], Array]:
    """The optimum that has the same number in every coordinate."""
    return lambda dim: np.full(dim, coordinate)


@dataclass(frozen=True)
class Function:
    """A function of positions (..., D) whose minimum, over the whole space, is 0 at `optimum(D)`.

    `value(x, constants, xp)` is written in what numpy and torch share: `xp` is one of these two modules, and
    `constants` an array of it.
    """

    name: str
    bounds: tuple[float, float]
    value: Callable[[Any, Any, ModuleType], Any]
    optimum: Callable[[int], Array] = np.zeros
    constants: Callable[[int], Array] = count_up


class Problem:
    """A function in one dimension and one variant, float64: `numpy(x)` and `torch(x)` give the gap to the optimum.

    Shifted-rotated: z = R (x - o) + x_opt, with R a random rotation (Haar) and o uniform in the middle 80 % of the
    box; both follow from the name and the dimension alone.
    """

    def __init__(self, function: Function, dim: int, variant: Variant) -> None:
        if dim < 2:
            raise ValueError(f"dim is {dim}: the functions need two coordinates or more")
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}: it must be one of {', '.join(VARIANTS)}")
        self.function, self.dim, self.variant = function, dim, variant
        self.bounds = self.low, self.high = function.bounds
        self.constants = function.constants(dim)
        self.optimum = function.optimum(dim)
        self.moved: tuple[Array, Array, Array] | None = None
        if variant == "shifted-rotated":
            random = np.random.default_rng(zlib.crc32(f"{function.name} {dim}".encode()))
            middle, reach = (self.low + self.high) / 2, 0.4 * (self.high - self.low)
            shift = random.uniform(middle - reach, middle + reach, dim)
            rotation_DD, upper_DD = np.linalg.qr(random.standard_normal((dim, dim)))
            self.moved = shift, np.ascontiguousarray(rotation_DD * np.sign(np.diag(upper_DD))), self.optimum
            self.optimum = shift
        self._torch: dict[Any, tuple[Any, Any]] = {}

    def numpy(self, x: Array) -> Any:
        """Values (...) of positions (..., D): a numpy float for one vector."""
        if self.moved is not None:
            shift, rotation_DD, centre = self.moved
            x = (x - shift) @ rotation_DD + centre
        return self.function.value(x, self.constants, np)

    def torch(self, x: Any) -> Any:
        """Values (P,) of positions (P, D), on their device; computed in float64."""
        import torch

        if x.device not in self._torch:
            move = [torch.as_tensor(part, device=x.device) for part in self.moved or ()]
            self._torch[x.device] = torch.as_tensor(self.constants, device=x.device), move
        constants, move = self._torch[x.device]
        x = x.double()
        if move:
            x = (x - move[0]) @ move[1] + move[2]
        return self.function.value(x, constants, torch)


def sphere(x: Any, _: Any, xp: ModuleType) -> Any:
    return xp.sum(x * x, axis=-1)


def rosenbrock(x: Any, _: Any, xp: ModuleType) -> Any:
    here, following = x[..., :-1], x[..., 1:]
    return xp.sum(100.0 * (following - here**2) ** 2 + (1.0 - here) ** 2, axis=-1)


def ackley(x: Any, _: Any, xp: ModuleType) -> Any:
    distance = xp.sqrt(xp.mean(x * x, axis=-1))
    waves = xp.mean(xp.cos(2.0 * math.pi * x), axis=-1)
    return 20.0 - 20.0 * xp.exp(-0.2 * distance) + (math.e - xp.exp(waves))


def rastrigin(x: Any, _: Any, xp: ModuleType) -> Any:
    return xp.sum(x * x + 10.0 * (1.0 - xp.cos(2.0 * math.pi * x)), axis=-1)


SCHWEFEL_OPTIMUM = 420.9687463599820
SCHWEFEL_DEPTH = SCHWEFEL_OPTIMUM * math.sin(math.sqrt(SCHWEFEL_OPTIMUM))


def schwefel(x: Any, _: Any, xp: ModuleType) -> Any:
    """Outside +-500, where -x sin(sqrt|x|) goes lower: the value at the edge, and a quadratic penalty (as in CEC)."""
    inside = xp.clip(x, -500.0, 500.0)
    waves = SCHWEFEL_DEPTH - inside * xp.sin(xp.sqrt(xp.abs(inside)))
    return xp.sum(waves + 0.01 * (x - inside) ** 2, axis=-1)


def griewank(x: Any, index: Any, xp: ModuleType) -> Any:
    return xp.sum(x * x, axis=-1) / 4000.0 + (1.0 - xp.prod(xp.cos(x / xp.sqrt(index)), axis=-1))


def levy(x: Any, _: Any, xp: ModuleType) -> Any:
    w = 1.0 + (x - 1.0) / 4.0
    first = xp.sin(math.pi * (w[..., 0] - 1.0)) ** 2  # sin(pi w), shifted so that it is 0 at w = 1 in floating point
    inner, last = w[..., :-1], w[..., -1]
    middle = xp.sum((inner - 1.0) ** 2 * (1.0 + 10.0 * xp.sin(math.pi * inner + 1.0) ** 2), axis=-1)
    return first + middle + (last - 1.0) ** 2 * (1.0 + xp.sin(2.0 * math.pi * last) ** 2)


def ellipsoid(x: Any, weights: Any, xp: ModuleType) -> Any:
    return xp.sum(weights * x * x, axis=-1)


def condition_million(dim: int) -> Array:
    """Weights 10^(6 (i - 1) / (D - 1)), from 1 to 10^6."""
    return np.asarray(10.0 ** np.linspace(0.0, 6.0, dim))


MAIN: dict[str, Function] = {
    function.name: function
    for function in (
        Function("sphere", (-5.12, 5.12), sphere),
        Function("rosenbrock", (-5.0, 10.0), rosenbrock, at(1.0)),
        Function("ackley", (-32.768, 32.768), ackley),
        Function("rastrigin", (-5.12, 5.12), rastrigin),
        Function("schwefel", (-500.0, 500.0), schwefel, at(SCHWEFEL_OPTIMUM)),
        Function("griewank", (-600.0, 600.0), griewank),
        Function("levy", (-10.0, 10.0), levy, at(1.0)),
        Function("ellipsoid", (-5.0, 5.0), ellipsoid, constants=condition_million),
    )
}


def problem(name: str, dim: int, variant: Variant = "plain") -> Problem:
    """The main function of this name.

    Raises:
        ValueError: no such name, variant or dimension.
    """
    if name not in MAIN:
        raise ValueError(f"no function {name!r}: there are {', '.join(MAIN)}")
    return Problem(MAIN[name], dim, variant)
