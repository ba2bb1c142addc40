"""What an optimizer's closures do while it steps: how often they are called, what runs in them, who reads `.grad`.

The trace tells a `ClosureWatch` what happens; each call of `optimizer.step` with a closure becomes a `ClosureStep`.
Whether the calls are alike is seen in `conditions`, what becomes of earlier gradients in `earlier`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from bfo_diag import frames
from bfo_diag.probes.gradients.conditions import Conditions
from bfo_diag.probes.gradients.earlier import EarlierGradients
from bfo_diag.records import Observation, Place

_KEEPING_ORDER = frozenset({"zero_grad", "grads_set_aside"})
"""Functions that read a `.grad` and use it for nothing: they clear it, or put it away and back."""


class ClosureStep:
    """One call of `optimizer.step` with a closure, of which an evaluation is one call.

    An objective that evaluates all candidates at once may not be called at all.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, spot: frames.Spot | None, earlier: EarlierGradients | None
    ) -> None:
        self.optimizer = optimizer
        self.spot = spot
        self.earlier = earlier
        self.conditions = Conditions()
        self.evaluations = 0
        self.with_backward = 0
        """Evaluations in which a backward pass really ran: one that an optimizer intercepts does not."""
        self.gradient_reads = 0
        """How often the optimizer itself read a `.grad`."""
        self.exchanges = 0
        """Collectives that Python called; what DDP does for its gradients and buffers is none of them."""
        self.world_size: int | None = None
        """Ranks of the job, where a closure calls a DistributedDataParallel module."""
        self.by_scaler = frames.inside("torch/amp", "_maybe_opt_step")
        """Whether a GradScaler stepped the optimizer."""

    def begin_evaluation(self) -> None:
        """Note what the closure finds."""
        self.evaluations += 1
        self.conditions.begin()
        if self.earlier is not None:
            self.earlier.evaluation_begins()

    def end_evaluation(self, *, went_back: bool) -> None:
        """Note what the closure has done."""
        self.with_backward += went_back
        self.conditions.end()
        if self.earlier is not None:
            self.earlier.evaluation_ends()

    @property
    def kind(self) -> tuple[Any, ...]:
        """What the log need not say twice: steps that differ by their counts alone are of one kind."""
        return (
            type(self.optimizer),
            self.spot,
            self.evaluations > 1,
            self.with_backward > 1,
            self.gradient_reads > 0,
            self.conditions.drew_others > 0,
            self.conditions.met_others > 0,
            self.world_size,
            self.exchanges > 0,
            self.by_scaler,
            None if self.earlier is None else self.earlier.fate,
        )

    def observation(self, step: int) -> Observation:
        """Return the fact for the log."""
        conditions = self.conditions
        values = {
            "optimizer": type(self.optimizer).__name__,
            "evaluations": self.evaluations,
            "with_backward": self.with_backward,
            "gradient_reads": self.gradient_reads,
            "drawing": conditions.drawing,
            "drew_others": conditions.drew_others,
            "dropouts": conditions.dropouts,
            "met_others": conditions.met_others,
            "buffers": conditions.buffers,
            "data_parallel_ranks": self.world_size,
            "exchanges": self.exchanges if self.world_size is not None and _collectives_are_seen() else None,
            "by_scaler": self.by_scaler,
            "earlier_backwards": 0 if self.earlier is None else len(self.earlier.spots),
            "earlier_gradients": None if self.earlier is None else self.earlier.fate,
        }
        return Observation("closure", values, self.spot.place(step=step) if self.spot else Place(step=step))


class ClosureWatch:
    """Follows the steps of optimizers, one inside the other where an optimizer wraps another."""

    def __init__(self) -> None:
        self._open: list[tuple[torch.optim.Optimizer, ClosureStep | None]] = []
        """The steps under way, the innermost last; None for one without a closure."""
        self._evaluating: ClosureStep | None = None
        self._went_back = False
        """Whether a backward pass ran in the evaluation under way."""
        self._backwards: list[frames.Spot | None] = []
        """Where backward passes ran since an optimizer last stepped and since gradients were last set to None."""
        self.bare_steps = 0
        """Steps of optimizers without a closure, in this step of the target."""
        self._kinds: set[tuple[Any, ...]] = set()
        self._new: list[ClosureStep] = []

    def begin_step(self) -> None:
        """Begin a step of the target: what an exception has left open is closed."""
        self._open.clear()
        self._evaluating = None
        self.bare_steps = 0

    def take(self) -> list[ClosureStep]:
        """Return the steps of a kind that was not there before, since the last call."""
        new, self._new = self._new, []
        return new

    # --- an optimizer steps ---

    def optimizer_enters(self, optimizer: torch.optim.Optimizer, spot: frames.Spot | None, *, closure: bool) -> None:
        """Note that an optimizer begins to step, and what it finds in `.grad`."""
        step = ClosureStep(optimizer, spot, EarlierGradients.of(optimizer, self._backwards)) if closure else None
        self.bare_steps += step is None
        self._open.append((optimizer, step))

    def optimizer_leaves(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep what was seen of its step; one inside it that raised has left nothing."""
        while self._open:
            stepped, step = self._open.pop()
            if step is not None and stepped is optimizer and step.kind not in self._kinds:
                self._kinds.add(step.kind)
                self._new.append(step)
            if stepped is optimizer:
                break
        self._backwards = []

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Watch one call of a closure; what a closure calls in turn is a part of it."""
        step = self._open[-1][1] if self._open and self._evaluating is None else None
        if step is None:
            yield
            return
        self._evaluating, self._went_back = step, False
        step.begin_evaluation()
        try:
            yield
        finally:
            self._evaluating = None
            step.end_evaluation(went_back=self._went_back)

    # --- what happens meanwhile ---

    def module_called(self, module: torch.nn.Module) -> None:
        """Note a module that a closure calls."""
        step = self._evaluating
        if step is not None:
            if isinstance(module, DistributedDataParallel):
                step.world_size = dist.get_world_size(module.process_group)
            step.conditions.module_called(module)

    @contextmanager
    def backward(self, losses: Sequence[torch.Tensor], spot: frames.Spot | None) -> Iterator[None]:
        """Watch a backward pass.

        It may not really run: an optimizer may have put something else in its place. A hook on the loss tells.
        """
        step = self._evaluating
        if step is not None and step.earlier is not None:
            step.earlier.backward_begins(spot)
        ran: list[torch.Tensor] = []
        hooks = [loss.register_hook(ran.append) for loss in losses if loss.requires_grad]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            if ran and step is not None:
                self._went_back = True
            elif ran and not self._open:
                self._backwards.append(spot)

    def gradient_read(self, frame: FrameType) -> None:
        """Note that code in this frame read a `.grad`: an optimizer, if it is not a closure, nor code of ours."""
        while frame.f_back is not None and frame.f_code.co_name.startswith("<"):  # (up to 3.11 a [...] is a function)
            frame = frame.f_back
        ours = frames.owner_of_file(frame.f_code.co_filename) is frames.Owner.OURS
        if self._evaluating is None and not ours and frame.f_code.co_name not in _KEEPING_ORDER:
            for _, step in self._open:
                if step is not None:
                    step.gradient_reads += 1
                    if step.earlier is not None:
                        step.earlier.read()

    def gradient_dropped(self) -> None:
        """Note that the target set a `.grad` to None: it has no use for what was there."""
        if not self._open:
            self._backwards.clear()

    def forget_backwards(self) -> None:
        """Forget backward passes that the target has not asked for."""
        self._backwards.clear()

    def exchanged(self) -> None:
        """Note a collective."""
        for _, step in self._open:
            if step is not None:
                step.exchanges += 1

    @contextmanager
    def overlooking_random_state(self) -> Iterator[None]:
        """Let random numbers be drawn on which no loss depends."""
        step = self._evaluating
        if step is not None:
            step.conditions.look_at_random_state()
        yield
        if step is not None:
            step.conditions.overlook_random_state()


@cache
def _collectives_are_seen() -> bool:
    """Whether this version of torch hands its collectives to a TorchFunctionMode (2.6 does so for some)."""
    function: Any = getattr(dist.all_gather, "__wrapped__", dist.all_gather)
    return "has_torch_function" in function.__code__.co_names
