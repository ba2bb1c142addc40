"""One training step on a batch, bare or with a closure as the optimizer wants it, and what a model's loss is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bfo_diag.errors import TargetLoadError
from bfo_diag.training.recipe import Training
from pytorch_bfo_optimizer import HybridBFO
from pytorch_bfo_optimizer.gradient_modes import MODES
from pytorch_bfo_optimizer.shell import ColonyOptimizer

Watch = Callable[[], None]
"""Called in a step when the gradients are there, before they are clipped or used."""


class Step:
    """Trains a model by one batch at a time: zero_grad, forward, loss, backward, clip, step.

    An optimizer of the BFO family calls a closure many times. Each call of one step begins from the same random
    numbers and buffers, so that dropout and batch statistics are the same for every member of the colony.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, training: Training, device: str) -> None:
        self.model, self.optimizer = model, optimizer
        self._clip_norm = training.clip_norm
        self._device = torch.device(device)
        self._autocast = training.autocast is not None
        self._mode = None if training.gradient_mode is None else MODES[training.gradient_mode]

    @property
    def calls_closure(self) -> bool:
        """Whether the optimizer evaluates the loss itself."""
        return isinstance(self.optimizer, ColonyOptimizer)

    @property
    def has_gradients(self) -> bool:
        """Whether the optimizer asks for gradients at all."""
        return not self.calls_closure or isinstance(self.optimizer, HybridBFO)

    def loss(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of a batch, 0-dim, and its logits (..., C).

        Raises:
            TargetLoadError: the model returned something that is no logits of these targets.
        """
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            logits = self.model(inputs)
            if not isinstance(logits, Tensor) or logits.shape[:-1] != targets.shape:
                shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise TargetLoadError(
                    f"the model returned {shape} for inputs {tuple(inputs.shape)}",
                    mend=f"it has to return logits, {(*targets.shape, 'classes')}".replace("'", ""),
                )
            return nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten()), logits

    def __call__(self, inputs: Tensor, targets: Tensor, watch: Watch | None = None) -> Tensor:
        """Make one step, and return the loss of the batch, 0-dim and without its graph."""
        if self.calls_closure:
            return self._with_closure(inputs, targets, watch)
        self.optimizer.zero_grad()
        loss, _ = self.loss(inputs, targets)
        loss.backward()
        if watch is not None:
            watch()
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_norm)
        self.optimizer.step()
        return loss.detach()

    def _with_closure(self, inputs: Tensor, targets: Tensor, watch: Watch | None) -> Tensor:
        again = _repeatable(self.model, self._device)
        taken = self._gradients_taken
        waiting = [] if watch is None else [watch]

        def without_gradient() -> Any:
            again()
            self.optimizer.zero_grad()
            with torch.no_grad():
                return self.loss(inputs, targets)[0]

        def closure() -> Any:
            if not self.has_gradients:
                return without_gradient()
            again()
            self.optimizer.zero_grad()
            loss, _ = self.loss(inputs, targets)
            loss.backward()
            if waiting and self._gradients_taken > taken:  # else backward was asked for and not run
                waiting.pop()()
            return loss

        if self._mode is None:
            best = self.optimizer.step(closure)
        else:
            both = (without_gradient, closure) if self._mode.name == "dual" else (closure,)
            best = self._mode.step(self.optimizer, *both)
        return torch.as_tensor(best, dtype=torch.float32, device=self._device)

    @property
    def _gradients_taken(self) -> int:
        return self.optimizer.gradient_evaluations if isinstance(self.optimizer, HybridBFO) else 0

    @torch.no_grad()
    def evaluate(self, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        """Return the mean loss over all targets of these batches, and the share of them that were guessed right."""
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        right = torch.zeros((), dtype=torch.int64, device=self._device)
        count = 0
        with _evaluating(self.model):
            for inputs, targets in batches:
                loss, logits = self.loss(inputs, targets)
                total += loss.double() * targets.numel()
                right += (logits.argmax(-1) == targets).sum()
                count += targets.numel()
        return float(total) / count, int(right) / count


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    model.eval()
    try:
        yield
    finally:
        model.train()


def _repeatable(model: nn.Module, device: torch.device) -> Callable[[], None]:
    """Return what puts torch's random numbers and the model's buffers back to where they are now."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    random = torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def again() -> None:
        torch.set_rng_state(random)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu, device)
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)

    return again
