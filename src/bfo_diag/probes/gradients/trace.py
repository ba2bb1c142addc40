"""Follows values through one training step, beside autograd: which parameters a tensor's value *depends on*, and
which of them autograd can still *reach* from it. Where the first outgrows the second, the graph was cut.

The trace is a `TorchFunctionMode`. It sees each torch function that Python calls, with the caller's line. Sets of
parameters are bit masks over `leaves.Leaves`. It changes nothing of what the step computes.

Not seen: what runs inside one torch function (a fused module is one operation), other threads, and
`torch.from_numpy`, which takes no part in the override protocol: such a tensor is tied to the last exits to NumPy.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from bfo_diag import frames
from bfo_diag.attempt import call_through
from bfo_diag.probes.gradients.flow import Backward, Flow, StepTrace
from bfo_diag.probes.gradients.leaves import Leaves
from bfo_diag.probes.gradients.operations import Operation, Role, operation
from bfo_diag.probes.gradients.statistics import gradient_stats
from bfo_diag.probes.gradients.values import array_pointer, data_pointer, numbers_in, one_value, tensors_in, version_of

MAX_EXITS = 256
"""Exits to Python or NumPy that are remembered within a step."""


class Trace(TorchFunctionMode):
    """Follow values while the mode is entered; call `begin_step` before each step."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves = Leaves()
        self.step = StepTrace()
        self._flows = WeakTensorKeyDictionary()
        self._carried = WeakTensorKeyDictionary()
        self._alias = WeakTensorKeyDictionary()
        self._seen = WeakTensorKeyDictionary()
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
        self._modules_seen.clear()
        for leaf in self.leaves.all():
            # What was written into a parameter in an earlier step is its value now, and no part of this step.
            self._flows.pop(leaf.tensor, None)
        self.leaves.forget_transient()

    def flow_of(self, value: object) -> tuple[Flow, ...]:
        """Return where a returned loss came from: a tensor, or a number that left torch in this step."""
        found = tuple(flow for tensor in tensors_in(value) if (flow := self._flow(tensor)) is not None)
        if found or isinstance(value, torch.Tensor):
            return found
        matched = tuple(self.step.exit_values[n] for n in numbers_in(value) if n in self.step.exit_values)
        return matched or tuple(self.step.exits)

    def reachable(self, tensor: torch.Tensor) -> int:
        """Return the leaves that autograd reaches from `tensor`, by a walk of its graph: the ground truth."""
        if tensor.grad_fn is None:
            return self.leaves.bit(tensor) if tensor.requires_grad else 0
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
                leaf = self.leaves.add(variable)
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
        result = call_through(func, args, kwargs)
        if op.role is Role.GRAD_MODE:
            self._grad_off = None if torch.is_grad_enabled() else frames.innermost(frames.here(2))
        elif op.role is Role.REQUIRES_GRAD:
            spot = None if args[0].requires_grad else frames.innermost(frames.here(2))
            self.leaves.note_requires_grad(args[0], spot)
        return result

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
        grad_leaf = tensor.requires_grad and tensor.is_leaf
        if grad_leaf or isinstance(tensor, torch.nn.Parameter) or self.leaves.find(tensor) is not None:
            leaf = self.leaves.add(tensor)
            if leaf is None:
                return None
            if leaf.name is None and leaf.fallback_name is None:
                self.leaves.name_for_now(leaf, frames.variable_name(tensor))
            flow = Flow("leaf", (), leaf.bit)
        elif tensor.grad_fn is not None:
            # Made out of sight (a custom Function, a checkpoint): autograd's own graph says what it reads.
            flow = Flow("unseen", (), self.reachable(tensor))
        else:
            flow = self._reentered(tensor)
        if flow is not None:
            self._flows[tensor] = flow
        return flow

    def _reentered(self, tensor: torch.Tensor) -> Flow | None:
        """Tie a tensor of unknown origin to the exits before it, if it can have come from them."""
        if tensor in self._seen:
            return None
        self._seen[tensor] = True
        exits = [flow for flow in self.step.exits if flow.operation in ("numpy", "tolist", "float()", "int()", "item")]
        if not exits or not tensor.is_floating_point():
            return None
        pointed = self.step.exit_pointers.get(data_pointer(tensor) or -1)
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
            return self.leaves.bit(tensor) if tensor.requires_grad else 0
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
                leaf = self.leaves.find(tensor)
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
            result = call_through(func, args, kwargs)
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
        found = [values[number] for number in numbers_in((*args, *kwargs.values())) if number in values]
        if op.role is Role.ENTRY:
            for value in args:
                pointed = self.step.exit_pointers.get(array_pointer(value) or -1)
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
        leaf_bit = self.leaves.bit(output)
        if leaf_bit and self._in_optimizer:
            return  # an optimizer's update of its parameter is no part of the step's value
        grad_mode = torch.is_grad_enabled()
        source = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if output is source and not in_place:
            return  # handed through unchanged, such as x.to(its own device)
        reaches = before
        if grad_mode and output.grad_fn is not None:
            reaches |= carried
        elif output.is_leaf:
            reaches = leaf_bit if output.requires_grad else 0
        flow = Flow(op.name, parents, reads)
        root = self._root(output)
        if in_place and output in self._alias:
            # Written through .data or detach(): the values change, autograd does not know it.
            flow.lost = (carried | before) & ~self._carries(root, None) if root.requires_grad else carried | before
        else:
            flow.lost = carried & ~reaches
        if flow.lost:
            self._explain(flow, op, output, in_place=in_place, is_leaf=bool(leaf_bit or self.leaves.bit(root)))
        elif op.zero_derivative:
            flow.stack = frames.here(4)
            self.step.zero_derivative.append(flow)
        self._flows[output] = flow
        if in_place:
            self._flows[root] = flow
            flow.reads |= leaf_bit
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
        result = call_through(func, args, kwargs)
        tensor = args[0]
        parent = self._flow(tensor)
        if parent is None or not parent.reads or len(self.step.exits) >= MAX_EXITS:
            return result
        flow = Flow(op.name, (parent,), parent.reads)
        flow.lost = self._carries(tensor, parent)
        flow.reason = "numpy" if op.name in ("numpy", "__dlpack__", "__array_interface__") else "item"
        flow.stack = frames.here(3)
        self.step.exits.append(flow)
        pointer = array_pointer(result)
        if pointer is not None:
            self.step.exit_pointers[pointer] = flow
        for number in itertools.islice(numbers_in(result), MAX_EXITS):
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
                mask |= self.leaves.bit(tensor)
            reached &= mask
        record = Backward(
            spot=frames.innermost(frames.here(3)),
            reads=reads | reached,
            flows=flows,
            loss=one_value(losses),
            requires_grad=bool(losses) and all(loss.requires_grad for loss in losses),
            create_graph=op.name == "autograd.grad" and bool(kwargs.get("create_graph")),
        )
        self.step.backwards.append(record)
        before = {leaf.index: version_of(leaf.tensor.grad) for leaf in self.leaves.all() if leaf.tensor.is_leaf}
        result = call_through(func, args, kwargs)
        for leaf in self.leaves.all():
            # A checkpoint's inner backward fills gradients that the outer graph does not lead to.
            if leaf.tensor.is_leaf and version_of(leaf.tensor.grad) not in (None, before.get(leaf.index)):
                reached |= leaf.bit
        record.reached = reached
        record.finished = True
        given_back = dict(zip(map(id, wanted), result, strict=True)) if op.name == "autograd.grad" else {}
        for leaf in self.leaves.members(reached):
            gradient = given_back.get(id(leaf.tensor), leaf.tensor.grad)
            leaf.concerned = True
            leaf.stats = gradient_stats(gradient) if gradient is not None else leaf.stats
        return result

    def _optimizer_enters(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Note the optimizer; what its closures do counts as the step, what it does itself does not."""
        self._in_optimizer += 1
        self.leaves.add_optimizer(optimizer)
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
            leaf = self.leaves.add(parameter)
            if leaf is not None:
                self.leaves.name_for_now(leaf, f"{prefix}.{name}")
