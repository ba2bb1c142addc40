"""The layers whose neurons can die and be born: producer, norm, consumers, and what stands between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, fx, nn

from pytorch_bfo_optimizer.errors import TurnoverError, TurnoverRefusedError
from pytorch_bfo_optimizer.turnover import refusals, tracing
from pytorch_bfo_optimizer.turnover.routes import Route, RouteError, find_route

_SHOWN = 8
"""Refused layers that a message lists."""


@dataclass(frozen=True)
class Part:
    """A tensor of a layer that has a row or a column for each neuron."""

    name: str
    """As in `named_parameters`."""
    role: str
    """`producer.weight`, `norm.running_mean`, `consumers.0.weight` and so on: what it is called in every layer."""
    module: nn.Module
    attribute: str
    dim: int

    @property
    def tensor(self) -> Tensor:
        """The parameter or buffer as it is now."""
        tensor: Tensor = getattr(self.module, self.attribute)
        return tensor

    @property
    def is_incoming(self) -> bool:
        """Whether it makes the neurons, and does not read them."""
        return self.dim == 0


@dataclass(frozen=True, eq=False)
class Layer:
    """H neurons: the rows of a producer's weight (H, I), the columns of each consumer's weight (O, H).

    The modules are those of the model; they keep their identity when the width changes, and so does this.
    """

    name: str
    """The producer's name in `named_modules` of the model as it is without `torch.compile`."""
    producer: nn.Linear
    norm: nn.BatchNorm1d | None
    consumers: tuple[tuple[str, nn.Linear], ...]
    """Names and modules."""
    tap: nn.Module
    """The module whose first input is the activation that the consumers read: a dropout before them, or the first."""
    path: Route = field(repr=False)
    """From the producer's output to the consumers' input, in evaluation: no dropout, the norm's running statistics.

    `path(value)`, or `path(value, norm)` for neurons that are not born yet. It calls no hooks and writes to nothing;
    autograd goes through.
    """
    scope: nn.Module = field(repr=False)
    """The module whose forward was traced."""
    scope_name: str
    norm_name: str = ""

    @property
    def width(self) -> int:
        """H, as it is now."""
        return self.producer.out_features

    @property
    def parts(self) -> tuple[Part, ...]:
        """All tensors that change with the width, those that are there."""
        parts = [Part(f"{self.name}.{key}", f"producer.{key}", self.producer, key, 0) for key in ("weight", "bias")]
        if self.norm is not None:
            parts += [
                Part(f"{self.norm_name}.{key}", f"norm.{key}", self.norm, key, 0)
                for key in ("weight", "bias", "running_mean", "running_var")
            ]
        parts += [
            Part(f"{name}.weight", f"consumers.{number}.weight", consumer, "weight", 1)
            for number, (name, consumer) in enumerate(self.consumers)
        ]
        return tuple(part for part in parts if getattr(part.module, part.attribute) is not None)


def find_layers(model: nn.Module, patterns: str | Sequence[str] | None = None) -> tuple[Layer, ...]:
    """Return the layers that can be resized, in the order of `named_modules`.

    `patterns` are names of `nn.Linear` modules, `*` and `?` allowed (fnmatch); None is every one that qualifies. The
    root is traced by FX; where that fails, the modules on the way from it down to the producer, and the first that
    can be traced counts. Under `torch.compile` names are those without it.

    Raises:
        TurnoverError: a pattern that matches no Linear.
        TurnoverRefusedError: a pattern all of whose matches are refused, with the reason for each; a model that is
            wrapped for several processes, or compiled by `torch.jit`.
    """
    refusals.refuse_wrapped(model)
    finder = _Finder(model)
    found: dict[str, Layer] = {}
    wanted = [patterns] if isinstance(patterns, str) else patterns
    for pattern in ["*"] if wanted is None else wanted:
        layers: dict[str, Layer] = {}
        refused: list[str] = []
        for name in finder.linears(pattern):
            try:
                layers[name] = finder.layer(name)
            except TurnoverRefusedError as error:
                refused.append(str(error))
        if not layers:
            raise TurnoverRefusedError(_refused(pattern if wanted is not None else None, refused))
        found.update(layers)
    if not found:
        raise TurnoverError("no patterns were given: name at least one layer, or leave layers= out for all")
    return tuple(found[name] for name in finder.modules if name in found)


def _refused(pattern: str | None, reasons: list[str]) -> str:
    which = "no layer of the model" if pattern is None else f"no layer of {pattern!r}"
    more = f"\n  and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    return f"{which} can be resized:\n  " + "\n  ".join(reasons[:_SHOWN]) + more


class _Finder:
    """Finds layers of one model; each module is traced once."""

    def __init__(self, model: nn.Module) -> None:
        self._model = tracing.uncompiled(model)
        self.modules = {
            _plain(name): module for name, module in self._model.named_modules() if tracing.uncompiled(module) is module
        }
        self._graphs: dict[str, list[fx.Graph] | str] = {}
        self._layers: dict[str, Layer] = {}

    def linears(self, pattern: str) -> list[str]:
        """Return the names of the Linear modules that match.

        Raises:
            TurnoverError: nothing matches, or nothing that is a Linear.
        """
        matched = [name for name in self.modules if fnmatchcase(name, _plain(pattern))]
        linears = [name for name in matched if _is_linear(self.modules[name])]
        if not matched:
            known = ", ".join(repr(name) for name, module in self.modules.items() if _is_linear(module))
            raise TurnoverError(
                f"layers={pattern!r} matches no module of {type(self._model).__name__}: "
                + (f"its Linear layers are {known}" if known else "it has no Linear layer either")
            )
        if not linears:
            kinds = ", ".join(f"{name!r} ({type(self.modules[name]).__name__})" for name in matched[:_SHOWN])
            raise TurnoverError(f"layers={pattern!r} matches {kinds}, and no nn.Linear, whose rows are neurons")
        return linears

    def layer(self, name: str) -> Layer:
        """Return the layer of a producer.

        Raises:
            TurnoverRefusedError: it can't be resized; says why.
        """
        if name not in self._layers:
            self._layers[name] = self._found(name)
        return self._layers[name]

    def _found(self, name: str) -> Layer:
        producer = self.modules[name]
        refusals.refuse_unfit_linear(name, producer)
        assert isinstance(producer, nn.Linear)
        scope_name, routes = self._routes(name, producer)
        scope, route = self.modules[scope_name], routes[0]
        inside = {id(module): _plain(f"{scope_name}.{inner}") for inner, module in scope.named_modules()}
        layer = Layer(
            name=name,
            producer=producer,
            norm=route.norm,
            consumers=tuple((inside[id(consumer)], consumer) for consumer in route.consumers),
            tap=route.tap if self._is_registered_once(route.tap) else route.consumers[0],
            path=route,
            scope=scope,
            scope_name=scope_name,
            norm_name="" if route.norm is None else inside[id(route.norm)],
        )
        if any({id(m) for m in other.members} != {id(m) for m in route.members} for other in routes):
            raise TurnoverRefusedError(
                f"{name!r} can't be resized: what reads it depends on the mode of {_shown(scope_name)} or on "
                "optional arguments of its forward. Leave it out of layers="
            )
        for consumer_name, consumer in layer.consumers:
            refusals.refuse_unfit_linear(consumer_name, consumer)
        refusals.refuse_tied(self._model, [(part.name, part.tensor) for part in layer.parts])
        return layer

    def _routes(self, name: str, producer: nn.Linear) -> tuple[str, list[Route]]:
        """Return the name of the traced module, and the route from the producer in each of its graphs that calls it."""
        failures: list[str] = []
        for scope_name in _above(name):
            if isinstance(self.modules[scope_name], (nn.ModuleList, nn.ModuleDict)):  # which have no forward
                continue
            traced = self._traced(scope_name)
            if isinstance(traced, str):
                failures.append(f"{_shown(scope_name)} can't be traced ({traced})")
                continue
            scope = self.modules[scope_name]
            try:
                routes = [route for graph in traced if (route := find_route(scope, graph, producer)) is not None]
            except RouteError as error:
                raise TurnoverRefusedError(
                    f"{name!r} can't be resized: {error}. Leave it out of layers=, or let only elementwise "
                    "activations, dropouts and a BatchNorm1d stand between it and the Linear layers that read it"
                ) from error
            if routes:
                return scope_name, routes
            failures.append(f"the forward of {_shown(scope_name)} does not call it as a module")
        raise TurnoverRefusedError(
            f"{name!r} can't be resized: what reads it is not known, as " + "; ".join(failures) + ". Put it and the "
            "Linear layers that read it into a module of their own, without decisions by values or shapes"
        )

    def _traced(self, name: str) -> list[fx.Graph] | str:
        if name not in self._graphs:
            try:
                self._graphs[name] = tracing.graphs(self.modules[name])
            except tracing.UntraceableError as error:
                self._graphs[name] = str(error)
        return self._graphs[name]

    def _is_registered_once(self, module: nn.Module) -> bool:
        """Whether the module has one place in the model: else its inputs may be those of another layer."""
        return sum(other is module for _, other in self._model.named_modules(remove_duplicate=False)) == 1


def _above(name: str) -> Iterator[str]:
    """Yield the names of the modules that hold the one of this name, the root's first, which is empty."""
    parts = name.split(".")
    for length in range(len(parts)):
        yield ".".join(parts[:length])


def _shown(name: str) -> str:
    return repr(name) if name else "the model"


def _plain(name: str) -> str:
    """Return a module's name without what `torch.compile` adds to it."""
    return ".".join(part for part in name.split(".") if part and part != "_orig_mod")


def _is_linear(module: nn.Module) -> bool:
    scripted = isinstance(module, torch.jit.ScriptModule) and module.original_name == "Linear"
    return isinstance(module, nn.Linear) or scripted
