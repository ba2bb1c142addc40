"""The state that a `torch.optim` optimizer keeps for one parameter, cut and grown with it; another kind is refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytorch_bfo_optimizer.errors import TurnoverRefusedError
from pytorch_bfo_optimizer.persistence import ColonyKeeper
from pytorch_bfo_optimizer.turnover.rearrangement import Rearrangement

_LIKE_A_GRADIENT = {"exp_avg", "exp_inf", "grad_avg", "momentum_buffer", "prev"}
_LIKE_ITS_SQUARE = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"}
_OF_NO_SCALE = {"acc_delta", "step_size"}
"""Sizes of the steps themselves."""
_LIKE_THE_PARAMETER = {"ax"}
"""ASGD's mean of the parameter over the steps."""
_BIAS_CORRECTED = (
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Adamax,
)


def refuse_unfit(optimizer: Optimizer) -> None:
    """Check that the state of the optimizer can be cut at all.

    Raises:
        TurnoverRefusedError: an optimizer whose state is not one value for each value of a parameter.
    """
    name = type(optimizer).__name__
    if isinstance(optimizer, ColonyKeeper):
        raise TurnoverRefusedError(
            f"{name} searches a fixed space: its colony holds a position for each parameter as it is now. Train with "
            "an optimizer of torch.optim, or let no neurons die or be born"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TurnoverRefusedError(
            f"{name} keeps gradients of all parameters as one vector, which can't be cut: use another of torch.optim"
        )
    if isinstance(optimizer, torch.optim.Adafactor):
        raise TurnoverRefusedError(
            f"{name} keeps means over rows and columns, and those of a cut matrix are not a part of them: use AdamW or "
            "another optimizer that keeps a value for each value of a parameter"
        )


def has_own_step(optimizer: Optimizer) -> bool:
    """Whether the optimizer corrects the bias of its moments by a count of steps: newborn neurons need their own."""
    return isinstance(optimizer, _BIAS_CORRECTED)


def rearranged(
    optimizer: Optimizer,
    parameter: nn.Parameter,
    arrangement: Rearrangement,
    *,
    dim: int,
    new: Tensor,
    is_incoming: bool,
) -> dict[str, Any]:
    """Return the optimizer's state of `parameter` for its `new` value; {} where it has none.

    Values of 0 dimensions stay. Newborn neurons get what a fresh optimizer begins from. Of k copies each has 1/k of its
    parent's incoming gradient and the same outgoing one: incoming moments become m/k and v/k^2, outgoing ones stay
    (Chen et al. 2016, Net2Net, https://arxiv.org/abs/1511.05641, has the weights; the moments follow from them).

    Raises:
        TurnoverRefusedError: a state of another shape than the parameter's, or one that can't be shared among copies.
    """
    state: dict[str, Any] = {}
    for key, value in optimizer.state.get(parameter, {}).items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            state[key] = value
            continue
        where = f"the state {key!r} of {type(optimizer).__name__}"
        if value.shape != parameter.shape or value.layout != torch.strided:
            raise TurnoverRefusedError(
                f"{where} has shape {tuple(value.shape)} and layout {value.layout} for a parameter of shape "
                f"{tuple(parameter.shape)}: it can't be cut with it. Use an optimizer of torch.optim whose state has "
                "the parameter's shape"
            )
        divided = 0 if arrangement.copies is None else _power(optimizer, key, where, is_incoming=is_incoming)
        born = _of_newborn(optimizer, key, parameter, arrangement, new, dim)
        state[key] = arrangement.of(value, dim, born=born, divided=divided)
    return state


def refuse_no_own_step(optimizer: Optimizer, parameter: nn.Parameter) -> None:
    """Check that newborn neurons of this parameter can begin from a step of their own, where they have to.

    Raises:
        TurnoverRefusedError: an optimizer that is not torch's own and corrects its moments by a count of steps.
    """
    counts = "step" in optimizer.state.get(parameter, {}) or any("step" in group for group in optimizer.param_groups)
    corrects = counts and any("betas" in group for group in optimizer.param_groups)
    if corrects and not has_own_step(optimizer):
        raise TurnoverRefusedError(
            f"{type(optimizer).__name__} counts its steps for its betas, and is no Adam, AdamW, NAdam, RAdam or Adamax "
            "of torch.optim: newborn neurons would begin with the old count, and overshoot. Use one of those"
        )


def _power(optimizer: Optimizer, key: str, where: str, *, is_incoming: bool) -> int:
    """Return the power of the number of copies by which a state is divided when neurons are split."""
    if key in _LIKE_THE_PARAMETER:  # whose outgoing weights are shared, and whose incoming ones are not
        return 0 if is_incoming else 1
    is_a_step = isinstance(optimizer, torch.optim.RMSprop) and key == "momentum_buffer"
    if key in _OF_NO_SCALE or is_a_step:
        return 0
    if key in _LIKE_A_GRADIENT:
        return int(is_incoming)
    if key in _LIKE_ITS_SQUARE:
        return 2 * int(is_incoming)
    raise TurnoverRefusedError(
        f"{where} is not known here: whether it grows with the gradient or with its square decides how copies of a "
        "neuron share it. Use an optimizer of torch.optim, or let neurons be born in place of being split"
    )


def _of_newborn(
    optimizer: Optimizer, key: str, parameter: nn.Parameter, arrangement: Rearrangement, new: Tensor, dim: int
) -> Tensor | float:
    """Return what a fresh optimizer has in its state `key` before its first step: nearly always zero."""
    if key in _LIKE_THE_PARAMETER:
        return new.index_select(dim, arrangement.newborn.to(new.device))
    group = next((group for group in optimizer.param_groups if any(parameter is p for p in group["params"])), {})
    if isinstance(optimizer, torch.optim.Adagrad) and key == "sum":
        return float(group.get("initial_accumulator_value", 0.0))
    if isinstance(optimizer, torch.optim.Rprop) and key == "step_size":
        return float(group.get("lr", 0.0))
    return 0.0
