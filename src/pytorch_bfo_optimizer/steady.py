"""`SteadyClosure`: within one step every evaluation meets the same random numbers and the same buffers.

Without it a dropout mask or a BatchNorm statistic of its own for each candidate decides which of them looks best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_bfo_optimizer.errors import ObjectiveError
from pytorch_bfo_optimizer.objective import as_batched
from pytorch_bfo_optimizer.smart_closure import SmartClosure


class Conditions:
    """What an evaluation meets, noted when this is made: torch's global random state, and the buffers of `modules`.

    The random state is the CPU's, and that of CUDA devices that hold a tensor of `modules`.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        devices = {tensor.device for module in modules for tensor in (*module.parameters(), *module.buffers())}
        kept = [torch.device("cpu"), *sorted((d for d in devices if d.type == "cuda"), key=str)]
        self._random = [(device, _random_state(device)) for device in kept]
        found = {id(part): part for module in modules for part in module.modules()}
        self._buffers = [
            (part, name, buffer, None if buffer is None else buffer.detach().clone())
            for part in found.values()
            for name, buffer in part._buffers.items()
        ]

    @property
    def buffers_moved(self) -> bool:
        """Whether a buffer holds something else now."""
        return any(
            module._buffers.get(name) is not buffer or _differ(buffer, values)
            for module, name, buffer, values in self._buffers
        )

    def put_back(self) -> None:
        """Set random state and buffers to what they were."""
        for device, state in self._random:
            _set_random_state(device, state)
        with torch.no_grad():
            for module, name, buffer, values in self._buffers:
                if buffer is not None and values is not None and _differ(buffer, values):
                    buffer.copy_(values)  # (one that never moves may be expanded, and can't be written into)
                module._buffers[name] = buffer  # (a module may have put another tensor in its place)


class SteadyClosure:
    """A closure for one step of an optimizer that evaluates it several times.

    The first call notes torch's global random state (the CPU's, and that of CUDA devices that hold a tensor of
    `modules`) and the buffers of `modules`. Each later call puts both back before it evaluates, so that candidates
    differ by their parameters alone. After the step the random state is one evaluation further on, as after any
    training step; `settle` brings the buffers there too. Generators of your own, Python's `random` and NumPy are left
    alone.

    Make a new one for each step, or call `steady_step`.

    Args:
        closure: returns the loss, and may call `.backward()`.
        modules: whose buffers are held: the model that the closure calls.

    Raises:
        ObjectiveError: `closure` is a batched objective, which evaluates all candidates in one call.
    """

    def __init__(self, closure: Callable[[], Any], modules: nn.Module | Iterable[nn.Module] = ()) -> None:
        if as_batched(closure) is not None:
            raise ObjectiveError(
                f"{type(closure).__name__} evaluates all candidates at once, and cannot be held steady call by call: "
                'give it to the optimizer as it is (`ModelObjective(randomness="same")` draws one mask for all)'
            )
        self.closure = closure
        self.modules = [modules] if isinstance(modules, nn.Module) else list(modules)
        self.evaluations = 0
        self._conditions: Conditions | None = None

    def __call__(self) -> Any:
        """Evaluate under the conditions of the first call."""
        if self._conditions is None:
            self._conditions = Conditions(self.modules)
        else:
            self._conditions.put_back()
        self.evaluations += 1
        return self.closure()

    def put_back(self) -> None:
        """Set random state and buffers to what the first call met; nothing where there was none."""
        if self._conditions is not None:
            self._conditions.put_back()

    def settle(self) -> None:
        """Let the buffers have seen one evaluation: that of the parameters as the step left them.

        Costs a forward pass, without gradients, where there were several evaluations and a buffer has moved; else
        nothing. `.grad` stays as it is, and a backward pass that the closure asks for is not run.
        """
        if self.evaluations < 2 or self._conditions is None or not self._conditions.buffers_moved:
            return
        self.put_back()
        params = [param for module in self.modules for param in module.parameters()]
        with torch.no_grad():
            SmartClosure(self.closure, params)()


def steady_step(
    optimizer: torch.optim.Optimizer, closure: Callable[[], Any], modules: nn.Module | Iterable[nn.Module] = ()
) -> Any:
    """Make one step with a `SteadyClosure`, and settle it; what `optimizer.step` returned.

    Raises:
        Exception: whatever the closure or the step raises; random state and buffers are as before then.
    """
    steady = SteadyClosure(closure, modules)
    try:
        loss = optimizer.step(steady)
        steady.settle()
    except BaseException:
        steady.put_back()
        raise
    return loss


def _differ(buffer: Tensor | None, values: Tensor | None) -> bool:
    return buffer is not None and values is not None and not torch.equal(buffer, values)


def _random_state(device: torch.device) -> Tensor:
    return torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)
