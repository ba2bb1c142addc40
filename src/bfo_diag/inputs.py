"""Random inputs for an nn.Module from `float32[32,64]`, and the training step of a module that has only these."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bfo_diag.attempt import call_through
from bfo_diag.errors import TargetLoadError
from bfo_diag.records import Case

if TYPE_CHECKING:
    import torch

EXAMPLE = "--input 'float32[32,64]'"
_INPUT = re.compile(r"^\s*(?P<dtype>[a-z]+\d*)\s*\[(?P<shape>[\d\s,]*)\]\s*(?:<\s*(?P<high>\d+))?\s*$")


def parse_input(spec: str) -> tuple[str, tuple[int, ...], int]:
    """Read `float32[32,64]` or `int64[8,16]<100`; return dtype name, shape, and the bound of random integers.

    Raises:
        TargetLoadError: it has another form, or the dtype is none of torch's.
    """
    import torch

    match = _INPUT.match(spec)
    dtype = getattr(torch, match["dtype"], None) if match else None
    if match is None or not isinstance(dtype, torch.dtype):
        raise TargetLoadError(
            f"--input {spec!r} is not of the form dtype[shape]",
            mend=f"write {EXAMPLE}, for integers below 100 --input 'int64[8,16]<100', for one number 'float32[]'",
        )
    try:
        shape = tuple(int(part) for part in match["shape"].split(",")) if match["shape"].strip() else ()
    except ValueError as error:
        raise TargetLoadError(f"--input {spec!r}: the shape has an empty size", mend=f"write {EXAMPLE}") from error
    return match["dtype"], shape, int(match["high"] or 2)


def make_input(spec: str, *, device: str, generator: torch.Generator) -> torch.Tensor:
    """Return random data: standard normal for floats, uniform integers below the bound, fair coins for bool."""
    import torch

    name, shape, high = parse_input(spec)
    dtype: torch.dtype = getattr(torch, name)
    if dtype.is_floating_point or dtype.is_complex:
        wide = torch.complex64 if dtype.is_complex else torch.float32
        return torch.randn(shape, generator=generator, dtype=wide).to(device=device, dtype=dtype)
    if dtype is torch.bool:
        high = 2
    return torch.randint(0, high, shape, generator=generator).to(device=device, dtype=dtype)


def _float_outputs(value: object) -> list[torch.Tensor]:
    import torch

    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() or value.is_complex() else []
    if isinstance(value, dict):
        return [t for item in value.values() for t in _float_outputs(item)]
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in _float_outputs(item)]
    return []


def module_case(module: torch.nn.Module, specs: tuple[str, ...], device: str, seed: int) -> Case:
    """Return a step that runs the module on random inputs, and backward from a random projection of its outputs.

    A plain sum would have a zero gradient behind a softmax or a normalisation; a random cotangent has none.
    """
    import torch

    if not specs:
        raise TargetLoadError(
            "the factory returned an nn.Module, and a module alone says nothing of its inputs",
            mend=f"add {EXAMPLE}, or return a Case with a step",
        )
    generator = torch.Generator().manual_seed(seed)
    module = module.to(device)
    inputs = [make_input(spec, device=device, generator=generator) for spec in specs]
    try:
        inspect.signature(module.forward).bind(*inputs)
    except TypeError as error:
        raise TargetLoadError(
            f"{type(module).__name__}.forward{inspect.signature(module.forward)} does not take {len(specs)} inputs: "
            f"{error}",
            mend="give one --input for each argument of forward",
        ) from error
    step = ModuleStep(module, tuple(inputs), device, seed)
    return Case(step=step, model=module, inputs=inputs, name=type(module).__name__)


class StepInPart(ABC):
    """A step of which torch.compile gets only a part: `function`, which the step calls with arguments like `inputs`."""

    __slots__ = ()

    part_name: str = ""
    """What to call `function`, where it is less than what was named."""
    function: Callable[..., Any]
    inputs: tuple[Any, ...]

    def __call__(self) -> Any:
        """Run the step, and return its loss."""
        return self.through(self.function)

    @abstractmethod
    def through(self, function: Callable[..., Any]) -> Any:
        """Run the step with `function` (its compiled form, say) in the place of its own, backward included."""

    def run_part(self, function: Callable[..., Any]) -> Any:
        """Run what comes of `function` alone, backward included, and no optimizer of the framework's own."""
        return self.through(function)


class ModuleStep(StepInPart):
    """A step of a module that has only inputs: forward, and backward from a random projection of its outputs."""

    function: torch.nn.Module

    def __init__(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], device: str, seed: int) -> None:
        self.function = module
        self.inputs = inputs
        self._device = device
        self._seed = seed
        self._cotangents: list[torch.Tensor] = []

    def __call__(self) -> torch.Tensor:
        """Run the step, and return its loss."""
        loss = self._loss(self.function)
        loss.backward()
        return loss

    def through(self, forward: Callable[..., object]) -> torch.Tensor:
        """Run the step with `forward` in place of the module (its compiled form, say), backward where there is a graph.

        Raises:
            TargetLoadError: forward returned nothing to go back from.
        """
        import torch

        outputs = self._outputs(forward)
        if len(self._cotangents) != len(outputs):
            self._cotangents = [self._cotangent(output) for output in outputs]
        # (Nothing is computed between forward and backward, so that all that runs is the module's.)
        pairs = [pair for pair in zip(outputs, self._cotangents, strict=True) if pair[0].requires_grad]
        if pairs:
            torch.autograd.backward([output for output, _ in pairs], [cotangent for _, cotangent in pairs])
        return outputs[0]

    def _loss(self, forward: Callable[..., object]) -> torch.Tensor:
        import torch

        outputs = self._outputs(forward)
        loss = torch.zeros((), device=self._device)
        for output in outputs:
            loss = loss + (output * self._cotangent(output)).sum().abs()
        return loss

    def _cotangent(self, output: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.randn(output.shape, generator=torch.Generator().manual_seed(self._seed)).to(output)

    def _outputs(self, forward: Callable[..., object]) -> list[torch.Tensor]:
        self.function.zero_grad()
        outputs = _float_outputs(call_through(forward, self.inputs, {}))
        if not outputs:
            raise TargetLoadError(
                f"{type(self.function).__name__}.forward returned no floating-point tensor to go back from",
                mend="name a step of your own that computes a loss",
            )
        return outputs
