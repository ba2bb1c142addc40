"""The strategies by name: what a preset chooses of selector, initialiser and schedule."""

from __future__ import annotations

from typing import Any

from pytorch_bfo_optimizer.errors import HyperparameterError
from pytorch_bfo_optimizer.state import require_count
from pytorch_bfo_optimizer.turnover import selectors
from pytorch_bfo_optimizer.turnover.initialisers.fade import Fade
from pytorch_bfo_optimizer.turnover.schedule import Continuous, Every, Never

PRESETS = (
    "none",
    "standard",
    "functional",
    "fade",
    "continuous",
    "distillation",
    "growth",
    "hybrid",
    "crossover",
    "orthogonal",
)
GROWTH = 1.5
"""How many times its first width a layer has in the end, where `growth` is not told."""

_PAIRS = {
    "standard": ("weight", "mutation"),
    "functional": ("gradient_activation", "fold"),
    "fade": ("gradient_activation", "fade"),
    "continuous": ("utility", "zero_outgoing"),
    "distillation": ("gradient_activation", "distillation"),
    "hybrid": ("utility", "offspring"),
    "crossover": ("gradient_activation", "crossover"),
    "orthogonal": ("orthogonality", "fold"),
}


def settings(name: str, *, every: int, fraction: float, grow_to: float | int | None) -> dict[str, Any]:
    """Return the keywords of `TurnoverManager` that a preset stands for.

    ==============  ==================  ===============  =====================================================
    preset          who dies            who is born      when
    ==============  ==================  ===============  =====================================================
    `none`          nobody              nobody           never: the control, which hooks nothing
    `standard`      weight              mutation         `fraction` of the width, every `every` steps
    `functional`    gradient_activation fold             likewise
    `fade`          gradient_activation fade             likewise, over half of `every` steps
    `continuous`    utility             zero_outgoing    the same number, in ten parts
    `distillation`  gradient_activation distillation     as `standard`
    `growth`        nobody              zero_outgoing    as `standard`, up to `grow_to`
    `hybrid`        utility             offspring        as `standard`; the width stays
    `crossover`     gradient_activation crossover        as `standard`
    `orthogonal`    orthogonality       fold             as `standard`
    ==============  ==================  ===============  =====================================================

    A newborn neuron is mature after 2 `every` steps: what has just been born adds least, and would be the first to go.

    Raises:
        HyperparameterError: no such preset, or a setting that it does not have.
    """
    if name not in PRESETS:
        raise HyperparameterError(f"preset is {name!r}: use one of {', '.join(map(repr, PRESETS))}")
    require_count("every", every, least=1, mend="100 is every hundredth step")
    if name == "none":
        return {"select": None, "replace": "zero_outgoing", "schedule": Never()}
    if name == "growth":
        chosen = {"select": None, "replace": "zero_outgoing", "grow_to": GROWTH if grow_to is None else grow_to}
        return {**chosen, "schedule": Every(every), "fraction": fraction}
    if grow_to is not None:
        raise HyperparameterError(
            f"grow_to is {grow_to!r} with the preset {name!r}, in which the width stays: leave it out, or use 'growth'"
        )
    select, replace = _PAIRS[name]
    steadily = Continuous(fraction / every, gather=max(1, every // 10))
    return {
        "select": selectors.load_all()[select](maturity=2 * every),
        "replace": Fade(over=max(1, every // 2)) if replace == "fade" else replace,
        "schedule": steadily if name == "continuous" else Every(every),
        "fraction": fraction,
    }
