"""The one place that changes the tensors of a model and of its optimizer: neurons cut, grown, replaced and split.

Each operation first computes and checks everything, and then puts it in place: one that raises has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytorch_bfo_optimizer.errors import TurnoverError, TurnoverRefusedError
from pytorch_bfo_optimizer.turnover import optimizer_state
from pytorch_bfo_optimizer.turnover.calls import CallCheck
from pytorch_bfo_optimizer.turnover.layers import Layer, Part
from pytorch_bfo_optimizer.turnover.rearrangement import Rearrangement
from pytorch_bfo_optimizer.turnover.refusals import refuse_unfit_layer
from pytorch_bfo_optimizer.turnover.young import YoungNeurons


@dataclass(frozen=True)
class Births:
    """What K newborn neurons begin with; cast to dtype and device of the layer."""

    incoming_weight: Tensor
    """(K, I)."""
    incoming_bias: Tensor | None
    """(K,); None for zeros, or where the producer has none."""
    outgoing: tuple[Tensor, ...]
    """(O, K) for each consumer."""
    norm: Tensor | nn.BatchNorm1d | None = None
    """Whose weight, bias and running statistics they get in the layer's norm, where it has one.

    (K,) rows of the layer; a BatchNorm1d of K features; None for what a new norm begins with.
    """

    def __len__(self) -> int:
        """Return K."""
        return len(self.incoming_weight)


class Surgeon:
    """Operates on the layers of one model and on the state of its optimizer.

    Where a width changes, new `nn.Parameter` objects take the place of the old ones in modules, param groups and state
    (`.data` of another shape would leave the old shape in autograd's accumulator); where it stays, tensors are changed
    in place. `.grad` is cut and grown too. Only this optimizer is told: another one that holds the same parameters
    goes on with the old ones. `young` gives newborn neurons steps of their own.

    Raises:
        TurnoverRefusedError: an optimizer whose state can't be cut.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        optimizer_state.refuse_unfit(optimizer)
        self._model, self._optimizer = model, optimizer
        self._checks: dict[str, CallCheck] = {}
        self.young = YoungNeurons(optimizer)

    def watch(self, layers: Sequence[Layer]) -> None:
        """Count from now on whether these layers are called as they were traced; an operation on one checks it."""
        for layer in layers:
            if layer.name not in self._checks:
                self._checks[layer.name] = CallCheck(layer)

    def resize(self, layer: Layer, keep: Tensor, births: Births | None = None) -> Layer:
        """Keep the rows `keep` (K,), in this order, and append newborn ones; return the layer.

        Raises:
            TurnoverError: rows that don't exist or are named twice, births of other shapes, or no neuron left.
            TurnoverRefusedError: a layer or an optimizer that can't be cut any more as it was found.
        """
        self._refuse_unfit(layer)
        _check_rows(layer, "keep", keep)
        arrangement = Rearrangement.cut(keep, 0 if births is None else len(births))
        if not arrangement.width:
            raise TurnoverError(f"{layer.name!r} would be left with no neuron: keep at least one")
        self._perform(layer, arrangement, births)
        return layer

    def replace(self, layer: Layer, slots: Tensor, births: Births) -> None:
        """Put newborn neurons in the rows `slots` (K,), in this order.

        Raises:
            TurnoverError: rows that don't exist or are named twice, or births that are not one for each.
            TurnoverRefusedError: as `resize`.
        """
        self._refuse_unfit(layer)
        _check_rows(layer, "slots", slots)
        if len(slots) != len(births):
            raise TurnoverError(f"{len(births)} births for {len(slots)} slots of {layer.name!r}: give one for each")
        self._perform(layer, Rearrangement.replaced(layer.width, slots), births)

    def split(self, layer: Layer, parents: Tensor) -> Layer:
        """Append a twin of each row in `parents` (K,), which may name one several times; return the layer.

        What the k copies of a neuron have in sum is what it had: the function stays as it is (Net2WiderNet, Chen et al.
        2016, https://arxiv.org/abs/1511.05641). Their incoming moments are m/k and v/k^2, and the outgoing ones m and
        v, as their gradients are. Copies are alike in all: noise or dropout has to tell them apart.

        Raises:
            TurnoverError: rows that don't exist.
            TurnoverRefusedError: as `resize`, or an optimizer's state that is not known here.
        """
        self._refuse_unfit(layer)
        _check_rows(layer, "parents", parents, several=True)
        self._perform(layer, Rearrangement.split(layer.width, parents), None)
        return layer

    @torch.no_grad()
    def add_to_outgoing(
        self, layer: Layer, deltas: Sequence[Tensor], bias_deltas: Sequence[Tensor | None] | None = None
    ) -> None:
        """Add to the consumers' weights, (O, H) each, and to their biases, (O,) each; moments stay.

        Raises:
            TurnoverError: not one for each consumer, another shape, or a bias that a consumer does not have.
            TurnoverRefusedError: as `resize`.
        """
        self._refuse_unfit(layer)
        for what, given in (("deltas", deltas), ("bias_deltas", bias_deltas)):
            if given is not None and len(given) != len(layer.consumers):
                raise TurnoverError(
                    f"{len(given)} {what} for the {len(layer.consumers)} consumers of {layer.name!r}: give one for each"
                )
        biases = [None] * len(deltas) if bias_deltas is None else bias_deltas
        sums: list[tuple[Tensor, Tensor]] = []
        for (name, consumer), delta, bias_delta in zip(layer.consumers, deltas, biases, strict=True):
            sums.append((consumer.weight, _fitting(f"the delta of {name!r}", delta, consumer.weight.shape)))
            if bias_delta is not None:
                if consumer.bias is None:
                    raise TurnoverError(f"a bias_delta for {name!r}, which has no bias: give None")
                sums.append((consumer.bias, _fitting(f"the bias_delta of {name!r}", bias_delta, consumer.bias.shape)))
        self.young.settle()
        for tensor, delta in sums:
            tensor.add_(delta.to(tensor))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Make a step of the optimizer that counts for no neuron: one that is tried, and put back."""
        with self.young.paused():
            yield

    def close(self) -> None:
        """Take all hooks off model and optimizer. Newborn neurons go on with the optimizer's own step."""
        self.young.close()
        for check in self._checks.values():
            check.close()
        self._checks.clear()

    def _refuse_unfit(self, layer: Layer) -> None:
        refuse_unfit_layer(self._model, layer)
        if layer.name in self._checks:
            self._checks[layer.name].refuse()

    def _perform(self, layer: Layer, arrangement: Rearrangement, births: Births | None) -> None:
        """Make what every tensor will be, and then put all in place."""
        self.young.settle()
        with torch.no_grad():
            values = _newborn_values(layer, births)
            edits = [self._edit(part, arrangement, values.get(part.role, 0.0)) for part in layer.parts]
            for put in edits:
                put()
        layer.producer.out_features = arrangement.width
        if layer.norm is not None:
            layer.norm.num_features = arrangement.width
        for _, consumer in layer.consumers:
            consumer.in_features = arrangement.width
        self.young.moved(layer, arrangement)

    def _edit(self, part: Part, arrangement: Rearrangement, born: Tensor | float) -> Callable[[], None]:
        """Return what puts a part's new value in place, in modules, param groups and state."""
        old = part.tensor
        new = arrangement.of(old, part.dim, born=born, divided=0 if part.is_incoming else 1)
        if not isinstance(old, nn.Parameter):
            return lambda: _put_buffer(part, new)
        grad = None
        if old.grad is not None:
            grad = arrangement.of(old.grad, part.dim, divided=int(part.is_incoming))
        if len(arrangement.newborn):
            optimizer_state.refuse_no_own_step(self._optimizer, old)
        state = optimizer_state.rearranged(
            self._optimizer, old, arrangement, dim=part.dim, new=new, is_incoming=part.is_incoming
        )
        if new.shape == old.shape:
            return lambda: self._write(old, new, grad, state)
        _refuse_hooks(part, old)
        fresh = nn.Parameter(new, requires_grad=old.requires_grad)
        fresh.__dict__.update(old.__dict__)
        fresh.grad = grad
        return lambda: self._exchange(part, fresh, state)

    def _write(self, parameter: nn.Parameter, new: Tensor, grad: Tensor | None, state: dict[str, Any]) -> None:
        parameter.copy_(new)
        if parameter.grad is not None and grad is not None:
            parameter.grad.copy_(grad)
        for key, value in state.items():
            if isinstance(value, Tensor):
                self._optimizer.state[parameter][key].copy_(value)

    def _exchange(self, part: Part, fresh: nn.Parameter, state: dict[str, Any]) -> None:
        old = part.tensor
        part.module._parameters[part.attribute] = fresh
        for group in self._optimizer.param_groups:
            for place, parameter in enumerate(group["params"]):
                if parameter is old:
                    group["params"][place] = fresh
        if old in self._optimizer.state:
            del self._optimizer.state[old]
            self._optimizer.state[fresh] = state


def _put_buffer(part: Part, new: Tensor) -> None:
    if new.shape == part.tensor.shape:
        part.tensor.copy_(new)
    else:
        part.module._buffers[part.attribute] = new


def _newborn_values(layer: Layer, births: Births | None) -> dict[str, Tensor | float]:
    """Return by its role what each part has of the newborn ones.

    Raises:
        TurnoverError: a shape that does not fit the layer.
    """
    if births is None:
        return {}
    count, name = len(births), f"of the births in {layer.name!r}"
    values: dict[str, Tensor | float] = {
        "producer.weight": _fitting(
            f"incoming_weight {name}", births.incoming_weight, (count, layer.producer.in_features)
        ),
        "norm.weight": 1.0,
        "norm.running_var": 1.0,
    }
    if births.incoming_bias is not None:
        if layer.producer.bias is None:
            raise TurnoverError(f"incoming_bias {name}, which has no bias: give None")
        values["producer.bias"] = _fitting(f"incoming_bias {name}", births.incoming_bias, (count,))
    if len(births.outgoing) != len(layer.consumers):
        raise TurnoverError(
            f"outgoing {name} has {len(births.outgoing)} tensors for {len(layer.consumers)} consumers: one for each"
        )
    for number, ((consumer_name, consumer), outgoing) in enumerate(zip(layer.consumers, births.outgoing, strict=True)):
        values[f"consumers.{number}.weight"] = _fitting(
            f"outgoing {name} for {consumer_name!r}", outgoing, (consumer.out_features, count)
        )
    for part in layer.parts:
        if part.module is layer.norm and births.norm is not None:
            values[part.role] = _normed(layer, part, births.norm, count)
    return values


def _normed(layer: Layer, part: Part, norm: Tensor | nn.BatchNorm1d, count: int) -> Tensor | float:
    """Return what a part of the layer's norm has of the newborn ones, by the rows or by the norm that they bring."""
    what = f"norm of the births in {layer.name!r}"
    if isinstance(norm, Tensor):
        _check_rows(layer, what, norm, several=True)
        return part.tensor.index_select(0, _fitting(what, norm, (count,)).to(part.tensor.device))
    brought = getattr(norm, part.attribute)
    if brought is None:
        return 1.0 if part.attribute in ("weight", "running_var") else 0.0
    return _fitting(f"{part.attribute} of the {what}", brought, (count,))


def _fitting(what: str, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    if tuple(tensor.shape) != tuple(shape):
        raise TurnoverError(f"{what} has shape {tuple(tensor.shape)}: it must be {tuple(shape)}")
    return tensor.detach()


def _check_rows(layer: Layer, what: str, rows: Tensor, *, several: bool = False) -> None:
    if rows.dim() != 1 or rows.dtype not in (torch.int64, torch.int32):
        raise TurnoverError(
            f"{what} is a {rows.dtype} tensor of shape {tuple(rows.shape)}: give the numbers of rows, (K,) int64"
        )
    wrong = rows[(rows < 0) | (rows >= layer.width)].tolist()
    if wrong:
        raise TurnoverError(f"{what} names row {wrong[0]} of {layer.name!r}, whose rows are 0 to {layer.width - 1}")
    if not several and len(rows.unique()) != len(rows):
        raise TurnoverError(f"{what} names a row of {layer.name!r} twice: each once")


def _refuse_hooks(part: Part, parameter: nn.Parameter) -> None:
    if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
        raise TurnoverRefusedError(
            f"{part.name!r} has hooks on its gradient, which a parameter of another width would lose: remove them, or "
            "let the width stay as it is"
        )
