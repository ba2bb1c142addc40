"""Follows values through one training step, beside autograd: which parameters a tensor's value *depends on*, and
which of them autograd can still *reach* from it. Where the first outgrows the second, the graph was cut.

The trace is a `TorchFunctionMode`. It sees each torch function that Python calls, with the caller's line. Sets of
parameters are bit masks over `leaves.Leaves`. It changes nothing of what the step computes.

Not seen: what runs inside one torch function (a fused module is one operation), other threads, and
`torch.from_numpy`, which takes no part in the override protocol: such a tensor is tied to the last exits to NumPy.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook, register_module_parameter_registration_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode

from bfo_diag import frames
from bfo_diag.attempt import call_through
from bfo_diag.probes.gradients.backward import GradientChanges, bits, graph_leaves, inputs_of, why_missing
from bfo_diag.probes.gradients.closures import ClosureWatch
from bfo_diag.probes.gradients.flow import Backward, Flow, Reason, StepTrace
from bfo_diag.probes.gradients.lineage import FUNCTION_APPLY, Lineage
from bfo_diag.probes.gradients.operations import Operation, Role, operation
from bfo_diag.probes.gradients.statistics import gradient_stats
from bfo_diag.probes.gradients.values import has_history, is_leaf, numbers_in, one_value, tensors_in
from bfo_diag.probes.gradients.watched import is_closure, watched

_STACK_OF_A_TRAINER = 64
"""Frames between a framework's call of optimizer.step and the user's own line, at most."""


class Trace(TorchFunctionMode):
    """Follow values while the mode is entered; call `begin_step` before each step."""

    def __init__(self) -> None:
        super().__init__()
        self.lineage = Lineage()
        self.leaves = self.lineage.leaves
        self.step = StepTrace()
        self.closures = ClosureWatch()
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
            register_module_parameter_registration_hook(self._parameter_registered),
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
        self.lineage.begin_step()
        self.closures.begin_step()
        self._in_optimizer = 0
        self._stepping = True
        self._modules_seen.clear()

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
        if op.role is Role.SEED:
            return self._seed(op, func, args, kwargs)
        if op.role is Role.COLLECTIVE:
            self.closures.exchanged()
            return self._compute(op, func, args, kwargs)
        result = call_through(func, args, kwargs)
        if op.role is Role.GRAD_MODE:
            self._grad_off = None if torch.is_grad_enabled() else frames.innermost(frames.here(2))
        elif op.role is Role.SET_GRADIENT:
            self._set_gradient(*args)
        elif op.role is Role.REQUIRES_GRAD:
            spot = None if args[0].requires_grad else frames.innermost(frames.here(2))
            self.leaves.note_requires_grad(args[0], spot)
        elif op.role is Role.GRADIENT and self._in_optimizer:
            self.closures.gradient_read(sys._getframe(1))
        return result

    def _seed(self, op: Operation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let a DataLoader seed its workers: it does so for each pass, without workers too, and nothing comes of it."""
        if not sys._getframe(2).f_code.co_filename.endswith("dataloader.py"):
            return self._compute(op, func, args, kwargs)
        with self.closures.overlooking_random_state():
            return self._compute(op, func, args, kwargs)

    def _set_gradient(self, tensor: torch.Tensor, gradient: torch.Tensor | None) -> None:
        if gradient is None:
            self.step.gradients_dropped = True
            self.closures.gradient_dropped()
            return
        leaf = self.leaves.find(tensor)
        if leaf is None or frames.is_our_library(frames.here(3)):
            return  # (our own optimizers put gradients aside and back)
        self.step.assigned |= leaf.bit
        leaf.measured(gradient_stats(gradient))

    def _compute(self, op: Operation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        parents: list[Flow] = []
        reads = carried = 0
        written = args[0] if op.writes and args and isinstance(args[0], torch.Tensor) else None
        before = 0
        for tensor in tensors_in((args, kwargs)):
            flow = self.lineage.flow(tensor)
            if flow is None:
                continue
            if tensor is not written or not op.sets_data:
                parents.append(flow)
                reads |= flow.reads
            carries = self.lineage.carries(tensor, flow)
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
        if self.lineage.exits.flows:
            for flow in self._entering(op, args, kwargs, has_tensors=bool(parents)):
                parents.append(flow)
                reads |= flow.reads
        if op.name == "mul" and sys._getframe(2).f_code.co_filename.endswith("grad_scaler.py"):
            self.step.scaled = True
        try:
            result = call_through(func, args, kwargs)
        except RuntimeError:
            if written is not None and is_leaf(written) and written.requires_grad:
                self.step.failed_write = (op.name, frames.here(3), reads)
            raise
        if op.detaches and written is None and args and isinstance(result, torch.Tensor) and result is not args[0]:
            self.lineage.alias(result, args[0])
        for output in [written] if written is not None else tensors_in(result):
            if reads and written is None and (viewed := self.lineage.viewed(output, args)):
                # Of several outputs each may be a view of its own input (broadcast_tensors).
                flows = tuple(flow for source in viewed if (flow := self.lineage.flow(source)) is not None)
                passed = functools.reduce(
                    operator.or_, (self.lineage.carries(t, self.lineage.flow(t)) for t in viewed), 0
                )
                seen = functools.reduce(operator.or_, (flow.reads for flow in flows), 0)
                if seen:
                    self._arrives(op, output, flows, seen, passed, 0, args, in_place=False)
            elif reads:
                self._arrives(op, output, tuple(parents), reads, carried, before, args, in_place=written is not None)
            else:
                self.lineage.know(output)
        return result

    def _entering(
        self, op: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], *, has_tensors: bool
    ) -> tuple[Flow, ...]:
        """Return the exits whose values come back in as Python numbers or NumPy arrays among the arguments."""
        if op.role is Role.ENTRY and not has_tensors:
            entered = self.lineage.exits.entering(op.name, (*args, *kwargs.values()))
            return () if entered is None else (entered,)
        return self.lineage.exits.of_numbers(numbers_in((*args, *kwargs.values())))

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
        if grad_mode and has_history(output):
            reaches |= carried
        elif is_leaf(output):
            reaches = leaf_bit if output.requires_grad else 0
        flow = Flow(op.name, parents, reads)
        root = self.lineage.root(output)
        if in_place and self.lineage.is_alias(output):
            # Written through .data or detach(): the values change, autograd does not know it.
            flow.lost = (
                (carried | before) & ~self.lineage.carries(root, None) if root.requires_grad else carried | before
            )
        else:
            flow.lost = carried & ~reaches
        if flow.lost and not grad_mode and not op.detaches and not in_place and output.is_floating_point():
            outer = frames.beyond(*FUNCTION_APPLY)
            if outer is not None:
                # In the forward of a custom Function: what it returns may have a graph yet.
                reason: Reason = "checkpoint" if frames.inside("torch/utils/checkpoint", "forward") else "no_derivative"
                self.lineage.hold_back(output, flow.lost, outer, reason)
                flow.lost = 0
        if flow.lost:
            self._explain(flow, op, output, in_place=in_place, is_leaf=bool(leaf_bit or self.leaves.bit(root)))
        elif op.zero_derivative:
            flow.stack = frames.here(4)
            self.step.zero_derivative.append(flow)
        if in_place:
            flow.reads |= leaf_bit
        self.lineage.arrived(output, flow, reaches, in_place=in_place)

    def _explain(self, flow: Flow, op: Operation, output: torch.Tensor, *, in_place: bool, is_leaf: bool) -> None:
        flow.stack = frames.here(5)
        if op.sets_data:
            flow.reason = "data"
        elif in_place and is_leaf:
            flow.reason = "inplace"
        elif op.name == "data" or (in_place and self.lineage.is_alias(output)):
            flow.reason = "data"
        elif op.detaches:
            flow.reason = "detach"
        elif op.role is Role.ENTRY:
            flow.reason = "tensor"
        elif not (output.is_floating_point() or output.is_complex()):
            flow.reason = "integer"
        elif not torch.is_grad_enabled() and frames.inside("torch/distributions", "sample"):
            flow.operation, flow.reason = "sample", "sample"
        elif not torch.is_grad_enabled():
            flow.reason = "inference_mode" if torch.is_inference_mode_enabled() else "no_grad"
            flow.grad_mode_spot = self._grad_off
        else:
            flow.reason = "no_derivative"

    def _exit(self, op: Operation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = call_through(func, args, kwargs)
        tensor = args[0]
        parent = self.lineage.flow(tensor)
        if parent is not None and parent.reads:
            flow = Flow(op.name, (parent,), parent.reads)
            reason: Reason = "numpy" if op.name in ("numpy", "__dlpack__", "__array_interface__") else "item"
            flow.cut_off(frames.here(3), reason, self.lineage.carries(tensor, parent))
            self.lineage.exits.add(flow, result, tensor.numel())
        return result

    def _backward(self, op: Operation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if torch._C._functorch.peek_interpreter_stack() is not None:
            self.step.functional = True
            return call_through(func, args, kwargs)
        is_grad = op.name == "autograd.grad"
        losses = list(tensors_in(args[0] if args else kwargs.get("tensors", kwargs.get("outputs"))))
        wanted = list(tensors_in(inputs_of(args, kwargs, position=1 if is_grad else 4)))
        flows = tuple(flow for loss in losses if (flow := self.lineage.flow(loss)) is not None)
        in_graph = graph_leaves(losses, self.leaves)
        reads = bits(in_graph)
        for flow in flows:
            reads |= flow.reads
        record = Backward(
            spot=frames.innermost(frames.here(3)),
            reads=reads,
            flows=flows,
            loss=one_value(losses),
            requires_grad=bool(losses) and all(loss.requires_grad for loss in losses),
            create_graph=is_grad and bool(kwargs.get("create_graph")),
        )
        self.step.backwards.append(record)
        changes = GradientChanges(self.leaves)
        if is_grad:
            result = call_through(func, args, kwargs)
        else:
            with self.closures.backward(losses, record.spot):
                result = call_through(func, args, kwargs)
        given: dict[int, torch.Tensor] = {}
        if is_grad:
            # (An edge of the graph among the inputs is no tensor: then there is nothing to pair.)
            pairs = zip(wanted, result, strict=True) if len(wanted) == len(result) else ()
            given = {id(tensor): g for tensor, g in pairs if g is not None}
            record.reached = bits(leaf.index for leaf in self.leaves.all() if id(leaf.tensor) in given)
        else:
            record.reached = changes.reached(in_graph)
        record.finished = True
        self.step.fresh |= record.reached
        for index, function in in_graph.items():
            if not record.reached >> index & 1:
                self.step.missing[index] = why_missing(function, inputs_given=bool(wanted))
        for leaf in self.leaves.members(record.reached):
            leaf.concerned = True
            gradient = given.get(id(leaf.tensor), leaf.tensor.grad)
            if self.step.scaled:
                leaf.stats = {"not_measured": "scaled by a GradScaler, whose optimizer did not step"}
            elif gradient is not None:
                leaf.measured(gradient_stats(gradient))
        return result

    def _optimizer_enters(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Note the optimizer; what its closures do counts as the step, what it does itself does not."""
        self._in_optimizer += 1
        self.leaves.add_optimizer(optimizer, lasting=False)
        closure = any(map(is_closure, (*args, *kwargs.values())))
        spot = frames.innermost(frames.here(2, limit=_STACK_OF_A_TRAINER)) if closure else None
        self._measure_again(optimizer, closure=closure)
        self.closures.optimizer_enters(optimizer, spot, closure=closure)

        def seen(value: Any) -> Any:
            return watched(value, self._outside) if is_closure(value) else value

        return tuple(map(seen, args)), {key: seen(value) for key, value in kwargs.items()}

    def _measure_again(self, optimizer: torch.optim.Optimizer, *, closure: bool) -> None:
        """Take the norms that the optimizer sees: unscaled and clipped by now. A closure makes them anew."""
        self.step.optimizer_steps += 1
        self.step.idle_steps += all(_is_zero(group.get("lr")) for group in optimizer.param_groups)
        reached = self.step.reached
        for leaf in self.leaves.held_by(optimizer):
            if leaf.bit & reached and leaf.tensor.grad is not None:
                leaf.measured(gradient_stats(leaf.tensor.grad))
            elif leaf.bit & self.step.fresh and not closure:
                self.step.cleared |= leaf.bit

    @contextmanager
    def _outside(self) -> Iterator[None]:
        depth, self._in_optimizer = self._in_optimizer, 0
        try:
            with self.closures.evaluation():
                yield
        finally:
            self._in_optimizer = depth

    def _optimizer_leaves(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._in_optimizer = max(0, self._in_optimizer - 1)
        self.step.fresh &= ~bits(leaf.index for leaf in self.leaves.held_by(optimizer))
        self.closures.optimizer_leaves(optimizer)

    def _module_enters(self, module: torch.nn.Module, _: Any) -> None:
        """Name the parameters of a module that nobody named: it may be gone when the step returns."""
        self.closures.module_called(module)
        if id(module) in self._modules_seen:
            return
        self._modules_seen.update(id(part) for part in module.modules())
        held_as = frames.variable_name(module)
        prefix = type(module).__name__ if held_as in (None, "self") else held_as
        for name, parameter in module.named_parameters():
            leaf = self.leaves.add(parameter)
            if leaf is not None:
                self.leaves.name_for_now(leaf, f"{prefix}.{name}")

    def _parameter_registered(self, module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        """Note where a computed value becomes a parameter: `layer.weight = nn.Parameter(y)`."""
        if self._stepping and parameter is not None:
            self.lineage.registered(parameter)


def _is_zero(rate: object) -> bool:
    return isinstance(rate, (int, float)) and rate == 0
