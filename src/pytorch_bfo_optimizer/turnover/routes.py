"""From a producer's output to the Linear layers that read it, in one FX graph; or why there is no such way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pytorch_bfo_optimizer.turnover import elementwise

_NORMS = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.InstanceNorm1d,
    nn.modules.batchnorm._BatchNorm,
)
_NORM_FUNCTIONS = {
    functional.layer_norm,
    functional.rms_norm,
    functional.group_norm,
    functional.batch_norm,
    functional.normalize,
    torch.layer_norm,
    torch.group_norm,
    torch.batch_norm,
}
_ARITHMETIC = {"add", "add_", "iadd", "sub", "sub_", "isub"}


class RouteError(Exception):
    """Something stands between a producer and what reads it that does not go by single neurons; names it."""


@dataclass(frozen=True)
class Route:
    """The consumers, the norm, and what is computed of the producer's output until they read it."""

    norm: nn.BatchNorm1d | None
    consumers: tuple[nn.Linear, ...]
    tap: nn.Module
    start: fx.Node
    steps: tuple[tuple[fx.Node, elementwise.Operation | None], ...]
    """None is the norm."""
    end: fx.Node

    @property
    def members(self) -> tuple[nn.Module, ...]:
        """The modules that change with the width, but for the producer."""
        return (*self.consumers, *(() if self.norm is None else (self.norm,)))

    def __call__(self, value: Tensor, norm: nn.BatchNorm1d | None = None) -> Tensor:
        """Return (..., H), what the consumers read, of (..., H), the producer's output; in evaluation.

        With `norm` in place of the layer's own it takes (..., K) of as many features: neurons that are not born yet.
        """
        known: dict[fx.Node, Any] = {self.start: value}
        for node, operation in self.steps:
            if operation is None:
                known[node] = _normalised(norm or self.norm, known[_input(node)])
                continue
            args = fx.node.map_arg(node.args, known.__getitem__)
            kwargs = fx.node.map_arg(node.kwargs, known.__getitem__)
            known[node] = operation(*args, **kwargs)
        result: Tensor = known[self.end]
        return result


def find_route(scope: nn.Module, graph: fx.Graph, producer: nn.Linear) -> Route | None:
    """Return the route from a producer in a graph of `scope`; None where it is not called there.

    Raises:
        RouteError: it is called several times, its weight is used elsewhere, or its output goes where it can't.
    """
    calls = [node for node in graph.nodes if _module(scope, node) is producer]
    if not calls:
        return None
    walk = _Walk(scope, graph, calls[0], producer.out_features)
    walk.refuse_other_uses(producer, len(calls))
    return walk.route()


class _Walk:
    def __init__(self, scope: nn.Module, graph: fx.Graph, start: fx.Node, width: int) -> None:
        self._scope, self._graph, self._start, self._width = scope, graph, start, width
        self._norm: nn.BatchNorm1d | None = None
        self._readers: list[tuple[fx.Node, nn.Linear]] = []
        self._steps: dict[fx.Node, elementwise.Operation | None] = {}

    def route(self) -> Route:
        """Follow every use of the output, in the order of the graph."""
        wide = {self._start}
        for node in self._graph.nodes:
            reads = node is not self._start and any(argument in wide for argument in node.all_input_nodes)
            if reads and self._passes(node, wide):
                wide.add(node)
        if not self._readers:
            raise RouteError("nothing reads its output")
        ends = [self._without_dropout(node) for node, _ in self._readers]
        if any(end is not ends[0] for end in ends):
            names = " and ".join(repr(str(node.target)) for node, _ in self._readers)
            raise RouteError(f"its consumers {names} read different activations of it")
        members = [linear for _, linear in self._readers]
        for module in (*members, *(() if self._norm is None else (self._norm,))):
            self.refuse_other_uses(module, self._calls_of(module))
        return Route(
            norm=self._norm,
            consumers=tuple(members),
            tap=self._tap(),
            start=self._start,
            steps=tuple(self._steps.items()),
            end=ends[0],
        )

    def refuse_other_uses(self, module: nn.Module, calls: int) -> None:
        """Check that a module is called once in the graph, and its parameters are read by nothing else."""
        name = next(name for name, other in self._scope.named_modules() if other is module)
        if calls != 1:
            raise RouteError(f"{name!r} is called {calls} times in one forward: each call would need the same width")
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        for node in self._graph.nodes:
            if node.op == "get_attr" and any(_attribute(self._scope, str(node.target)) is tensor for tensor in own):
                users = ", ".join(repr(user.name) for user in node.users) or "the forward"
                raise RouteError(f"the parameter {node.target!r} is read by {users}, and not only by its own module")

    def _passes(self, node: fx.Node, wide: set[fx.Node]) -> bool:
        """Take one use of the widened value: True if what it gives is widened too.

        Raises:
            RouteError: a use that does not go by single neurons.
        """
        module = _module(self._scope, node)
        described = _described(node, module)
        if node.op == "output":
            raise RouteError(
                "its output leaves the module that was traced: a residual stream, a result or a loss has its width"
            )
        if module is not None and isinstance(module, nn.Linear):
            self._readers.append((node, module))
            return False
        if isinstance(module, _NORMS) or node.target in _NORM_FUNCTIONS:
            self._take_norm(node, module, described)
            return True
        others = [argument for argument in node.all_input_nodes if argument not in wide]
        operation = elementwise.evaluation(node, module)
        if operation is not None and others:
            tied = "added to" if _name(node.target) in _ARITHMETIC else "put together with"
            raise RouteError(
                f"its output is {tied} another tensor ({others[0].name!r}) in {described}: a residual stream or a gate "
                "has its width"
            )
        if operation is None:
            raise RouteError(f"its output goes into {described}, which is not known to act on each neuron alone")
        for argument in node.all_input_nodes if elementwise.writes_to_input(node, module) else ():
            if len(argument.users) > 1:
                raise RouteError(f"its output is written to in place by {described} while others read it")
        self._steps[node] = operation
        return True

    def _take_norm(self, node: fx.Node, module: nn.Module | None, described: str) -> None:
        if type(module) is not nn.BatchNorm1d or self._norm is not None:
            several = " a second time" if self._norm is not None else ""
            raise RouteError(
                f"its output is normalised{several} by {described}: only one BatchNorm1d can be resized with it"
            )
        if module.num_features != self._width:
            raise RouteError(
                f"{described} is over {module.num_features} features, and not over its {self._width} neurons"
            )
        self._norm = module
        self._steps[node] = None

    def _without_dropout(self, reader: fx.Node) -> fx.Node:
        """Return the activation that a reader gets, before dropouts."""
        node = _input(reader)
        while node is not self._start and elementwise.is_passed_through(node, _module(self._scope, node)):
            node = _input(node)
        return node

    def _tap(self) -> nn.Module:
        """Return the first dropout module between the activation and the first reader, if it stands there alone."""
        reader, tap = self._readers[0]
        node: fx.Node = _input(reader)
        found: nn.Module = tap
        while node is not self._start and elementwise.is_passed_through(node, _module(self._scope, node)):
            module = _module(self._scope, node)
            if module is not None and elementwise.is_dropout(module) and self._calls_of(module) == 1:
                found = module
            node = _input(node)
        return found

    def _calls_of(self, module: nn.Module) -> int:
        return sum(_module(self._scope, node) is module for node in self._graph.nodes)


def _input(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _normalised(norm: nn.BatchNorm1d | None, value: Tensor) -> Tensor:
    """Return what a BatchNorm1d gives in evaluation."""
    assert norm is not None
    own = norm.running_mean is None
    return functional.batch_norm(
        value, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=own, momentum=0.0, eps=norm.eps
    )


def _module(scope: nn.Module, node: fx.Node) -> nn.Module | None:
    return scope.get_submodule(str(node.target)) if node.op == "call_module" else None


def _attribute(scope: nn.Module, target: str) -> Any:
    holder, _, name = target.rpartition(".")
    return getattr(scope.get_submodule(holder), name, None)


def _name(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _described(node: fx.Node, module: nn.Module | None) -> str:
    if module is not None:
        return f"{type(module).__name__} {str(node.target)!r}"
    kind = {"call_function": "the function", "call_method": "the method"}.get(node.op, node.op)
    return f"{kind} {_name(node.target)!r} (node {node.name!r})"
