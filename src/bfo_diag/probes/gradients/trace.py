"""Follows values through one training step, beside autograd: which parameters a tensor's value *depends on*, and
which of them autograd can still *reach* from it. Where the first outgrows the second, the graph was cut.

The trace is a `TorchFunctionMode`. It sees each torch function that Python calls, with the caller's line. Sets of
parameters are bit masks over `Trace.leaves`. It changes nothing of what the step computes.

Not seen: what runs inside one torch function (a fused module is one operation), other threads, and
`torch.from_numpy`, which takes no part in the override protocol: such a tensor is tied to the last exits to NumPy.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import FunctionType, MethodType
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from bfo_diag import frames
from bfo_diag.probes.gradients.operations import Operation, Role, operation

MAX_LEAVES = 20_000
"""Leaves beyond this many are not followed (a step that makes thousands of fresh ones)."""
MAX_EXITS = 256
"""Exits to Python or NumPy that are remembered within a step."""
_PLAIN = (torch.Tensor, torch.nn.Parameter)


class Flow:
    """One operation's part in a value: where it came from, which parameters it reads, which it lost."""

    __slots__ = ("grad_mode_spot", "guessed", "lost", "operation", "parents", "reads", "reason", "stack")

    def __init__(self, operation: str, parents: tuple[Flow, ...], reads: int) -> None:
        self.operation = operation
        self.parents = parents
        self.reads = reads
        self.lost = 0
        self.reason = ""
        self.stack: tuple[frames.Spot, ...] = ()
        self.grad_mode_spot: frames.Spot | None = None
        self.guessed = False


@dataclass
class Leaf:
    """A tensor that may get a gradient. It is kept alive while the trace lives, so that its id stays its own."""

    tensor: torch.Tensor
    index: int
    name: str | None = None
    fallback_name: str | None = None
    optimized: bool = False
    used_at: frames.Spot | None = None
    frozen_at: frames.Spot | None = None
    concerned: bool = False
    """Whether it is of the case: named, held by an optimizer or touched by a step, and not only made at import."""
    stats: dict[str, Any] | None = None

    @property
    def bit(self) -> int:
        """Its place in a set of leaves."""
        return 1 << self.index


@dataclass
class Backward:
    """One backward pass: what it started from and which leaves it reached."""

    spot: frames.Spot | None
    reads: int
    flows: tuple[Flow, ...]
    loss: float | None
    requires_grad: bool
    create_graph: bool = False
    reached: int = 0
    finished: bool = False


@dataclass
class StepTrace:
    """What one step did; the trace begins a fresh one for each."""

    backwards: list[Backward] = field(default_factory=list)
    exits: list[Flow] = field(default_factory=list)
    exit_values: dict[float, Flow] = field(default_factory=dict)
    exit_pointers: dict[int, Flow] = field(default_factory=dict)
    zero_derivative: list[Flow] = field(default_factory=list)
    failed_write: tuple[str, tuple[frames.Spot, ...], int] | None = None
    operations: int = 0


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested arguments or results."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def _numbers_in(value: object) -> Iterator[float]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers_in(item)


def _array_pointer(value: object) -> int | None:
    interface = getattr(value, "__array_interface__", None)
    return interface["data"][0] if isinstance(interface, dict) else None


def _pointer(tensor: torch.Tensor) -> int | None:
    if type(tensor) in _PLAIN and tensor.device.type == "cpu" and tensor.layout is torch.strided:
        return tensor.data_ptr()
    return None


class Trace(TorchFunctionMode):
    """Follow values while the mode is entered; call `begin_step` before each step."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, Leaf] = {}
        self._next_index = 0
        self.optimizers: list[torch.optim.Optimizer] = []
        self.step = StepTrace()
        self._index: dict[int, Leaf] = {}
        self._flows = WeakTensorKeyDictionary()
        self._carried = WeakTensorKeyDictionary()
        self._alias = WeakTensorKeyDictionary()
        self._seen = WeakTensorKeyDictionary()
        self._frozen: dict[int, tuple[torch.Tensor, frames.Spot | None]] = {}
        self._grad_off: frames.Spot | None = None
        self._in_optimizer = 0
        self._stepping = False
        self._modules_seen: set[int] = set()
        self._hooks: list[Any] = []

    def __enter__(self) -> Trace:
        """Begin to follow; optimizers that step are noted from here on."""
        self._hooks = [
            register_optimizer_step_pre_hook(self._optimizer_enters),
            register_optimizer_step_post_hook(self._optimizer_leaves),
            register_module_forward_pre_hook(self._module_enters),
        ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop following and take the hooks away."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def begin_step(self) -> None:
        """Forget what the last step did, keep what is known of the leaves."""
        self.step = StepTrace()
        self._in_optimizer = 0
        self._stepping = True
        for leaf in self.leaves:
            # What was written into a parameter in an earlier step is its value now, and no part of this step.
            self._flows.pop(leaf.tensor, None)
            if leaf.name is None and not leaf.optimized:
                # Made within a step: the next one makes its own.
                del self.known[leaf.index], self._index[id(leaf.tensor)]

    @property
    def leaves(self) -> list[Leaf]:
        """The leaves that are known, oldest first."""
        return list(self.known.values())

    def add_optimizer(self, optimizer: object) -> None:
        """Count the parameters of `optimizer` among the leaves."""
        if isinstance(optimizer, torch.optim.Optimizer) and all(optimizer is not known for known in self.optimizers):
            self.optimizers.append(optimizer)
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    leaf = self.leaf(parameter)
                    if leaf is not None:
                        leaf.optimized = leaf.concerned = True

    def leaf(self, tensor: torch.Tensor, name: str | None = None) -> Leaf | None:
        """Return the leaf for `tensor`, made if it is new; None beyond `MAX_LEAVES`."""
        found = self._index.get(id(tensor))
        if found is None:
            if len(self.known) >= MAX_LEAVES:
                return None
            found = Leaf(tensor, self._next_index)
            self.known[found.index] = found
            self._next_index += 1
            self._index[id(tensor)] = found
            frozen = self._frozen.pop(id(tensor), None)
            if frozen is not None:
                found.frozen_at = frozen[1]
        if name is not None:
            found.concerned = True
            found.name = found.name or self._free(name)
        return found

    def _free(self, name: str) -> str:
        """Return `name`, with a number where another leaf has it."""
        taken = {known for leaf in self.known.values() for known in (leaf.name, leaf.fallback_name)}
        numbers = itertools.chain([name], (f"{name} ({number})" for number in itertools.count(2)))
        return next(free for free in numbers if free not in taken)

    def members(self, bits: int) -> list[Leaf]:
        """Return the leaves of a set."""
        return [leaf for leaf in self.leaves if bits >> leaf.index & 1]

    def flow_of(self, value: object) -> tuple[Flow, ...]:
        """Return where a returned loss came from: a tensor, or a number that left torch in this step."""
        found = tuple(flow for tensor in tensors_in(value) if (flow := self._flow(tensor)) is not None)
        if found or isinstance(value, torch.Tensor):
            return found
        matched = tuple(self.step.exit_values[n] for n in _numbers_in(value) if n in self.step.exit_values)
        return matched or tuple(self.step.exits)

    def reachable(self, tensor: torch.Tensor) -> int:
        """Return the leaves that autograd reaches from `tensor`, by a walk of its graph: the ground truth."""
        if tensor.grad_fn is None:
            leaf = self._index.get(id(tensor)) if tensor.requires_grad else None
            return leaf.bit if leaf is not None else 0
        bits = 0
        stack: list[Any] = [tensor.grad_fn]
        visited: set[Any] = set()
        while stack:
            node = stack.pop()
            if node is None or node in visited:
                continue
            visited.add(node)
            variable = getattr(node, "variable", None)
            if isinstance(variable, torch.Tensor) and variable.is_leaf:
                leaf = self.leaf(variable)
                bits |= leaf.bit if leaf is not None else 0
            stack.extend(parent for parent, _ in node.next_functions)
        return bits

    # What each call does to the flow

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func` as it stands, and note what flowed through it."""
        kwargs = kwargs or {}
        op = operation(func)
        self.step.operations += 1
        if op.role is Role.COMPUTE or op.role is Role.ENTRY:
            return self._compute(op, func, args, kwargs)
        if op.role is Role.EXIT:
            return self._exit(op, func, args, kwargs)
        if op.role is Role.BACKWARD:
            return self._backward(op, func, args, kwargs)
        result = func(*args, **kwargs)
        if op.role is Role.GRAD_MODE:
            self._grad_off = None if torch.is_grad_enabled() else frames.innermost(frames.here(2))
        elif op.role is Role.REQUIRES_GRAD:
            self._note_requires_grad(args[0])
        return result

    def _note_requires_grad(self, tensor: torch.Tensor) -> None:
        leaf = self._index.get(id(tensor))
        spot = None if tensor.requires_grad else frames.innermost(frames.here(3))
        if leaf is not None:
            leaf.frozen_at = spot
        else:
            # Kept alive with its place: an id alone could pass to another tensor.
            self._frozen[id(tensor)] = (tensor, spot)

    def _root(self, tensor: torch.Tensor) -> torch.Tensor:
        root: torch.Tensor = self._alias.get(tensor, tensor)
        return root if root._base is None else root._base

    def _flow(self, tensor: torch.Tensor) -> Flow | None:
        flow: Flow | None = self._flows.get(tensor)
        if flow is None:
            root = self._root(tensor)
            flow = self._flows.get(root)
        if flow is not None:
            return flow
        if id(tensor) in self._index or isinstance(tensor, torch.nn.Parameter) or self._is_grad_leaf(tensor):
            leaf = self.leaf(tensor)
            if leaf is None:
                return None
            if leaf.name is None and leaf.fallback_name is None:
                held_as = frames.variable_name(tensor)
                leaf.fallback_name = held_as and self._free(held_as)
            flow = Flow("leaf", (), leaf.bit)
        elif tensor.grad_fn is not None:
            # Made out of sight (a custom Function, a checkpoint): autograd's own graph says what it reads.
            flow = Flow("unseen", (), self.reachable(tensor))
        else:
            flow = self._reentered(tensor)
        if flow is not None:
            self._flows[tensor] = flow
        return flow

    @staticmethod
    def _is_grad_leaf(tensor: torch.Tensor) -> bool:
        return tensor.requires_grad and tensor.is_leaf

    def _reentered(self, tensor: torch.Tensor) -> Flow | None:
        """Tie a tensor of unknown origin to the exits before it, if it can have come from them."""
        if tensor in self._seen:
            return None
        self._seen[tensor] = True
        exits = [flow for flow in self.step.exits if flow.operation in ("numpy", "tolist", "float()", "int()", "item")]
        if not exits or not tensor.is_floating_point():
            return None
        pointed = self.step.exit_pointers.get(_pointer(tensor) or -1)
        return self._entry("from_numpy", (pointed,) if pointed else tuple(exits), guessed=pointed is None)

    @staticmethod
    def _entry(name: str, parents: tuple[Flow, ...], *, guessed: bool) -> Flow:
        reads = 0
        for parent in parents:
            reads |= parent.reads
        flow = Flow(name, parents, reads)
        flow.guessed = guessed
        return flow

    def _carries(self, tensor: torch.Tensor, flow: Flow | None) -> int:
        """Return the leaves that autograd reaches from `tensor`, as far as the trace can tell without a walk."""
        if tensor.is_leaf:
            leaf = self._index.get(id(tensor)) if tensor.requires_grad else None
            return leaf.bit if leaf is not None else 0
        known: int | None = self._carried.get(tensor)
        if known:
            return known
        # A graph that appeared out of sight: whatever the value reads, autograd may reach.
        return flow.reads if flow is not None else 0

    def _compute(self, op: Operation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        parents: list[Flow] = []
        reads = carried = 0
        written = args[0] if op.writes and args and isinstance(args[0], torch.Tensor) else None
        before = 0
        for tensor in tensors_in((args, kwargs)):
            flow = self._flow(tensor)
            if flow is None:
                continue
            if tensor is not written or not op.sets_data:
                parents.append(flow)
                reads |= flow.reads
            carries = self._carries(tensor, flow)
            if tensor is written:
                before = carries
            else:
                carried |= carries
            if self._stepping and flow.operation == "leaf" and not self._in_optimizer:
                leaf = self._index.get(id(tensor))
                if leaf is not None:
                    leaf.concerned = True
                    if leaf.used_at is None and not op.detaches:
                        leaf.used_at = frames.innermost(frames.here(3))
        if self.step.exits:
            entered = self._numbers_entered(op, args, kwargs)
            parents.extend(entered)
            for flow in entered:
                reads |= flow.reads
        try:
            result = func(*args, **kwargs)
        except RuntimeError:
            if written is not None and written.is_leaf and written.requires_grad:
                self.step.failed_write = (op.name, frames.here(3), reads)
            raise
        if op.detaches and written is None and args and isinstance(result, torch.Tensor) and result is not args[0]:
            self._alias[result] = self._root(args[0])
        if reads:
            outputs = [written] if written is not None else list(tensors_in(result))
            for output in outputs:
                self._arrives(op, output, tuple(parents), reads, carried, before, args, written is not None)
        return result

    def _numbers_entered(self, op: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Flow]:
        """Return the exits whose values come back in as Python numbers or NumPy arrays among the arguments."""
        values = self.step.exit_values
        found = [values[number] for number in _numbers_in((*args, *kwargs.values())) if number in values]
        if op.role is Role.ENTRY:
            for value in args:
                pointed = self.step.exit_pointers.get(_array_pointer(value) or -1)
                if pointed is not None:
                    found.append(pointed)
            if not found and not any(True for _ in tensors_in(args)):
                # Some arithmetic in Python lies between: it may come from any exit so far.
                found.append(self._entry(op.name, tuple(self.step.exits), guessed=True))
        return found

    def _arrives(
        self,
        op: Operation,
        output: torch.Tensor,
        parents: tuple[Flow, ...],
        reads: int,
        carried: int,
        before: int,
        args: tuple[Any, ...],
        in_place: bool,
    ) -> None:
        is_leaf = id(output) in self._index
        if is_leaf and self._in_optimizer:
            return  # an optimizer's update of its parameter is no part of the step's value
        grad_mode = torch.is_grad_enabled()
        source = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if output is source and not in_place:
            return  # handed through unchanged, such as x.to(its own device)
        reaches = before
        if grad_mode and output.grad_fn is not None:
            reaches |= carried
        elif output.is_leaf:
            reaches = self._index[id(output)].bit if is_leaf and output.requires_grad else 0
        flow = Flow(op.name, parents, reads)
        root = self._root(output)
        if in_place and output in self._alias:
            # Written through .data or detach(): the values change, autograd does not know it.
            flow.lost = (carried | before) & ~self._carries(root, None) if root.requires_grad else carried | before
        else:
            flow.lost = carried & ~reaches
        if flow.lost:
            self._explain(flow, op, output, in_place=in_place, is_leaf=is_leaf or id(root) in self._index)
        elif op.zero_derivative:
            flow.stack = frames.here(4)
            self.step.zero_derivative.append(flow)
        self._flows[output] = flow
        if in_place:
            self._flows[root] = flow
            if is_leaf:
                self._flows[output].reads |= self._index[id(output)].bit
        if reaches:
            self._carried[output] = reaches
        elif output in self._carried:
            del self._carried[output]

    def _explain(self, flow: Flow, op: Operation, output: torch.Tensor, *, in_place: bool, is_leaf: bool) -> None:
        flow.stack = frames.here(5)
        if op.sets_data:
            flow.reason = "data"
        elif in_place and is_leaf:
            flow.reason = "inplace"
        elif op.name == "data" or (in_place and output in self._alias):
            flow.reason = "data"
        elif op.detaches:
            flow.reason = "detach"
        elif op.role is Role.ENTRY:
            flow.reason = "tensor"
        elif not (output.is_floating_point() or output.is_complex()):
            flow.reason = "integer"
        elif not torch.is_grad_enabled():
            flow.reason = "inference_mode" if torch.is_inference_mode_enabled() else "no_grad"
            flow.grad_mode_spot = self._grad_off
        else:
            flow.reason = "no_derivative"

    def _exit(self, op: Operation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        tensor = args[0]
        parent = self._flow(tensor)
        if parent is None or not parent.reads or len(self.step.exits) >= MAX_EXITS:
            return result
        flow = Flow(op.name, (parent,), parent.reads)
        flow.lost = self._carries(tensor, parent)
        flow.reason = "numpy" if op.name in ("numpy", "__dlpack__", "__array_interface__") else "item"
        flow.stack = frames.here(3)
        self.step.exits.append(flow)
        pointer = _array_pointer(result)
        if pointer is not None:
            self.step.exit_pointers[pointer] = flow
        for number in itertools.islice(_numbers_in(result), MAX_EXITS):
            if number not in (0.0, 1.0, -1.0) and math.isfinite(number):
                self.step.exit_values[number] = flow
        return result

    def _backward(self, op: Operation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = args[0] if args else kwargs.get("tensors", kwargs.get("outputs"))
        losses = list(tensors_in(given))
        flows = tuple(flow for loss in losses if (flow := self._flow(loss)) is not None)
        reads = reached = 0
        for flow in flows:
            reads |= flow.reads
        for loss in losses:
            reached |= self.reachable(loss)
        if op.name == "autograd.grad":
            wanted = list(tensors_in(args[1] if len(args) > 1 else kwargs.get("inputs")))
            mask = 0
            for tensor in wanted:
                leaf = self._index.get(id(tensor))
                mask |= leaf.bit if leaf is not None else 0
            reached &= mask
        record = Backward(
            spot=frames.innermost(frames.here(3)),
            reads=reads | reached,
            flows=flows,
            loss=_one_value(losses),
            requires_grad=bool(losses) and all(loss.requires_grad for loss in losses),
            create_graph=op.name == "autograd.grad" and bool(kwargs.get("create_graph")),
        )
        self.step.backwards.append(record)
        before = {leaf.index: _version_of(leaf.tensor.grad) for leaf in self.leaves if leaf.tensor.is_leaf}
        result = func(*args, **kwargs)
        for leaf in self.leaves:
            # A checkpoint's inner backward fills gradients that the outer graph does not lead to.
            if leaf.tensor.is_leaf and _version_of(leaf.tensor.grad) not in (None, before.get(leaf.index)):
                reached |= leaf.bit
        record.reached = reached
        record.finished = True
        given_back = dict(zip(map(id, wanted), result, strict=True)) if op.name == "autograd.grad" else {}
        for leaf in self.members(reached):
            gradient = given_back.get(id(leaf.tensor), leaf.tensor.grad)
            leaf.concerned = True
            leaf.stats = gradient_stats(gradient) if gradient is not None else leaf.stats
        return result

    def _optimizer_enters(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Note the optimizer; what its closures do counts as the step, what it does itself does not."""
        self._in_optimizer += 1
        self.add_optimizer(optimizer)
        return tuple(map(self._outside, args)), {key: self._outside(value) for key, value in kwargs.items()}

    def _outside(self, value: Any) -> Any:
        if not isinstance(value, (FunctionType, MethodType)):
            return value

        @functools.wraps(value)
        def closure(*args: Any, **kwargs: Any) -> Any:
            depth, self._in_optimizer = self._in_optimizer, 0
            try:
                return value(*args, **kwargs)
            finally:
                self._in_optimizer = depth

        return closure

    def _optimizer_leaves(self, *_: Any) -> None:
        self._in_optimizer = max(0, self._in_optimizer - 1)

    def _module_enters(self, module: torch.nn.Module, _: Any) -> None:
        """Name the parameters of a module that nobody named: it may be gone when the step returns."""
        if id(module) in self._modules_seen:
            return
        self._modules_seen.update(id(part) for part in module.modules())
        held_as = frames.variable_name(module)
        prefix = type(module).__name__ if held_as in (None, "self") else held_as
        for name, parameter in module.named_parameters():
            leaf = self.leaf(parameter)
            if leaf is not None and leaf.name is None and leaf.fallback_name is None:
                leaf.fallback_name = self._free(f"{prefix}.{name}")


def _version_of(gradient: torch.Tensor | None) -> tuple[int, int] | None:
    return None if gradient is None else (id(gradient), gradient._version)


def _one_value(losses: Iterable[torch.Tensor]) -> float | None:
    values = [float(loss.detach()) for loss in losses if loss.numel() == 1 and not loss.is_complex()]
    return values[0] if len(values) == 1 else None


def gradient_stats(gradient: torch.Tensor) -> dict[str, Any]:
    """Return norm (ord 2, accumulated in float64) and the counts of NaN and Inf of one gradient."""
    if type(gradient) not in _PLAIN and type(gradient).__module__.startswith("torch.distributed"):
        return {"not_measured": f"the gradient is a {type(gradient).__name__}"}
    with torch.no_grad():
        values = gradient.detach()
        if values.layout is not torch.strided:
            values = values.coalesce().values() if values.layout is torch.sparse_coo else values.to_dense()
        if values.is_complex():
            values = torch.view_as_real(values)
        norm = torch.linalg.vector_norm(values, dtype=torch.float64).item()
        nan = inf = 0
        if not math.isfinite(norm):
            nan = int(values.isnan().sum())
            inf = int(values.isinf().sum())
            if not nan and not inf:  # an overflow of the norm itself
                norm = torch.linalg.vector_norm(values / values.abs().max(), dtype=torch.float64).item()
                norm *= float(gradient.abs().max())
    return {"grad_norm": norm, "nan_count": nan, "inf_count": inf, "dtype": str(gradient.dtype).removeprefix("torch.")}
