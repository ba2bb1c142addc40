"""Ten more functions in the manner of `functions`, looked at only after every setting was final.

Nothing may be tuned on these: they show what the settings are worth elsewhere.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np

from peers.functions import Array, Function, at


def zakharov(x: Any, index: Any, xp: ModuleType) -> Any:
    tilt = xp.sum(0.5 * index * x, axis=-1)
    return xp.sum(x * x, axis=-1) + tilt**2 + tilt**4


def dixon_price(x: Any, index: Any, xp: ModuleType) -> Any:
    inner = xp.sum(index[1:] * (2.0 * x[..., 1:] ** 2 - x[..., :-1]) ** 2, axis=-1)
    return (x[..., 0] - 1.0) ** 2 + inner


def dixon_price_optimum(dim: int) -> Array:
    """x_i = 2^(2^(1 - i) - 1)."""
    return np.asarray(2.0 ** (2.0 ** (1.0 - np.arange(1, dim + 1)) - 1.0))


STYBLINSKI_TANG_OPTIMUM = -2.9035340277711771
STYBLINSKI_TANG_DEPTH = (
    STYBLINSKI_TANG_OPTIMUM**4 - 16.0 * STYBLINSKI_TANG_OPTIMUM**2 + 5.0 * STYBLINSKI_TANG_OPTIMUM
) / 2


def styblinski_tang(x: Any, _: Any, xp: ModuleType) -> Any:
    return xp.sum((x**4 - 16.0 * x**2 + 5.0 * x) / 2 - STYBLINSKI_TANG_DEPTH, axis=-1)


def salomon(x: Any, _: Any, xp: ModuleType) -> Any:
    radius = xp.sqrt(xp.sum(x * x, axis=-1))
    return 1.0 - xp.cos(2.0 * math.pi * radius) + 0.1 * radius


def schaffer_f7(x: Any, _: Any, xp: ModuleType) -> Any:
    radius = xp.sqrt(x[..., :-1] ** 2 + x[..., 1:] ** 2)
    return xp.mean(xp.sqrt(radius) * (1.0 + xp.sin(50.0 * radius**0.2) ** 2), axis=-1) ** 2


def weierstrass_terms(_: int) -> Array:
    """Amplitudes 0.5^k and frequencies 2 pi 3^k, k = 0 ... 20: (2, 21)."""
    k = np.arange(21)
    return np.stack([0.5**k, 2.0 * math.pi * 3.0**k])


def weierstrass(x: Any, terms: Any, xp: ModuleType) -> Any:
    amplitude, frequency = terms[0], terms[1]
    rough = amplitude * (xp.cos(frequency * (x[..., None] + 0.5)) - xp.cos(frequency * 0.5))
    return xp.sum(xp.sum(rough, axis=-1), axis=-1)


def happy_cat(x: Any, _: Any, xp: ModuleType) -> Any:
    dim = x.shape[-1]
    square, total = xp.sum(x * x, axis=-1), xp.sum(x, axis=-1)
    return xp.abs(square - dim) ** 0.25 + (0.5 * square + total) / dim + 0.5


def bent_cigar(x: Any, _: Any, xp: ModuleType) -> Any:
    return x[..., 0] ** 2 + 1e6 * xp.sum(x[..., 1:] ** 2, axis=-1)


def discus(x: Any, _: Any, xp: ModuleType) -> Any:
    return 1e6 * x[..., 0] ** 2 + xp.sum(x[..., 1:] ** 2, axis=-1)


def alpine(x: Any, _: Any, xp: ModuleType) -> Any:
    return xp.sum(xp.abs(x * xp.sin(x) + 0.1 * x), axis=-1)


HELD_OUT: dict[str, Function] = {
    function.name: function
    for function in (
        Function("zakharov", (-5.0, 10.0), zakharov),
        Function("dixon_price", (-10.0, 10.0), dixon_price, dixon_price_optimum),
        Function("styblinski_tang", (-5.0, 5.0), styblinski_tang, at(STYBLINSKI_TANG_OPTIMUM)),
        Function("salomon", (-100.0, 100.0), salomon),
        Function("schaffer_f7", (-100.0, 100.0), schaffer_f7),
        Function("weierstrass", (-0.5, 0.5), weierstrass, constants=weierstrass_terms),
        Function("happy_cat", (-2.0, 2.0), happy_cat, at(-1.0)),
        Function("bent_cigar", (-100.0, 100.0), bent_cigar),
        Function("discus", (-100.0, 100.0), discus),
        Function("alpine", (-10.0, 10.0), alpine),
    )
}
