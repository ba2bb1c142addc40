"""What a `TurnoverManager` is given, checked: settings, layers that train and have no other manager, a state."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from pytorch_bfo_optimizer.errors import HyperparameterError, TurnoverError, TurnoverRefusedError
from pytorch_bfo_optimizer.state import require_number
from pytorch_bfo_optimizer.turnover.layers import Layer
from pytorch_bfo_optimizer.turnover.schedule import Never, Schedule
from pytorch_bfo_optimizer.turnover.selectors import Selector

_STATE = frozenset({"layers", "settings", "young", "steps", "audit_due", "generator", "first_widths", "events"})
_LAYER_STATE = frozenset({"population", "average", "observer"})
_MANAGED: weakref.WeakKeyDictionary[nn.Module, weakref.ref[object]] = weakref.WeakKeyDictionary()
"""Who manages a producer."""


def refuse_unfit(
    select: Selector | None, schedule: object, fraction: object, grow_to: float | int | None, grow: object
) -> None:
    """Check what can be checked without a model.

    Raises:
        HyperparameterError: naming the setting, its value and the mend.
    """
    if not isinstance(schedule, Schedule):
        raise HyperparameterError(
            f"schedule is {schedule!r}: use Every(steps), Continuous(rate), Once(step) or Never()"
        )
    require_number("fraction", fraction, low=0, high=1, open_low=True, open_high=True, mend="0.05 is usual")
    if grow not in ("newborn", "split"):
        raise HyperparameterError(f"grow is {grow!r}: use 'newborn' or 'split'")
    if select is None and grow_to is None and not isinstance(schedule, Never):
        raise HyperparameterError(
            "select is None and grow_to is None: nobody would die and nobody be born; name a selector, give grow_to, "
            "or use the preset 'none' for a control"
        )


def refuse_strange(model: object, optimizer: object, layers: object) -> None:
    """Check the kinds of what was given.

    Raises:
        HyperparameterError: naming what it has to be.
    """
    if not isinstance(model, nn.Module):
        raise HyperparameterError(f"model is {type(model).__name__}: give the nn.Module first, then its optimizer")
    if not isinstance(optimizer, Optimizer):
        raise HyperparameterError(f"optimizer is {type(optimizer).__name__}: give the torch.optim.Optimizer")
    names = [layers] if isinstance(layers, str) else layers
    if names is not None and not (isinstance(names, Sequence) and all(isinstance(name, str) for name in names)):
        raise HyperparameterError(
            f"layers is {type(layers).__name__}: give names or patterns of modules, such as 'blocks.*.mlp.0'"
        )


def refuse_cap(grow_to: float | int | None, widths: Mapping[str, int]) -> None:
    """Check the width to grow to against the first widths.

    Raises:
        HyperparameterError: it is neither a width of at least the first, nor a factor of at least 1.
    """
    if grow_to is None:
        return
    if isinstance(grow_to, bool) or not isinstance(grow_to, (int, float)):
        raise HyperparameterError(f"grow_to is {grow_to!r}: give a width (128) or a factor (1.5)")
    if isinstance(grow_to, float):
        require_number("grow_to", grow_to, low=1, high=1e6, mend="1.5 times the first width, say")
        return
    for name, width in widths.items():
        if grow_to < width:
            raise HyperparameterError(
                f"grow_to is {grow_to}, and {name!r} has {width} neurons: an integer is the width to grow to; a factor "
                f"is a float, as {float(grow_to)}"
            )


def trained(layers: Sequence[Layer], optimizer: Optimizer, *, named: bool) -> tuple[Layer, ...]:
    """Return the layers whose weights the optimizer trains; where newborn neurons could not learn, none is born.

    Raises:
        TurnoverRefusedError: one that was `named` is not trained, or none is.
    """
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    found, why = [], ""
    for layer in layers:
        fault = _not_trained(layer, stepped)
        if not fault:
            found.append(layer)
            continue
        why = f"{fault}: neurons born in {layer.name!r} would never learn"
        if named:
            raise TurnoverRefusedError(f"{why}. Leave it out of layers=, or train it")
    if layers and not found:
        raise TurnoverRefusedError(f"no layer is trained: {why}")
    return tuple(found)


def _not_trained(layer: Layer, stepped: set[int]) -> str:
    for name, module in ((layer.name, layer.producer), *layer.consumers):
        if not module.weight.requires_grad:
            return f"'{name}.weight' is frozen"
        if id(module.weight) not in stepped:
            return f"'{name}.weight' is no parameter of the optimizer"
    return ""


def take(layers: Iterable[Layer], manager: object) -> None:
    """Note whose these layers are.

    Raises:
        TurnoverError: one is somebody else's.
    """
    layers = tuple(layers)
    for layer in layers:
        other = _MANAGED.get(layer.producer)
        if other is not None and other() is not None:
            raise TurnoverError(
                f"{layer.name!r} has a TurnoverManager already: close() that one first, or give them other layers"
            )
    _MANAGED.update((layer.producer, weakref.ref(manager)) for layer in layers)


def release(manager: object) -> None:
    """Note that a manager has no layers any more."""
    for producer, owner in list(_MANAGED.items()):
        if owner() is manager:
            del _MANAGED[producer]


def refuse_state(state: object, *, format: int, layers: Iterable[str], settings: Mapping[str, object]) -> None:
    """Check that a state is one of a manager of these layers and settings.

    Raises:
        TurnoverError: of others, of another version, or damaged.
    """
    if not isinstance(state, Mapping) or state.get("format") != format:
        raise TurnoverError("this is no state of a TurnoverManager of this version: pass what state_dict() returned")
    missing = sorted(_STATE - state.keys())
    if missing or not isinstance(state["steps"], int):
        raise TurnoverError(f"the state is damaged, at {(missing or ['steps'])[0]!r}: take another checkpoint")
    for name, mine, theirs in (
        ("layers", sorted(layers), sorted(state["layers"])),
        ("settings", settings, state["settings"]),
    ):
        if mine != theirs:
            raise TurnoverError(
                f"the state is of other {name}: {theirs}, and here they are {mine}; make the manager as it was made "
                "when the state was saved"
            )
    for name, part in state["layers"].items():
        if _LAYER_STATE - part.keys():
            raise TurnoverError(f"the state of {name!r} is damaged: take another checkpoint")
