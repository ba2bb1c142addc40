"""Whether the evaluations of one optimizer step meet the same random numbers and the same buffers.

Not seen: the random numbers of Python, NumPy and generators of the target's own; buffers above `LARGEST_BUFFER`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn.modules.dropout import _DropoutNd

from bfo_diag.probes.gradients.values import is_wrapped

LARGEST_BUFFER = 2**20
"""Elements of a buffer whose values are compared: statistics are smaller, and what is larger is a cache or a mask."""
_LISTED = 8

RandomState = tuple[torch.Tensor, ...]


class Conditions:
    """Compares each evaluation with the first; `begin` and `end` enclose one."""

    def __init__(self) -> None:
        self.drawing = 0
        """Evaluations that moved torch's global random state."""
        self.drew_others = 0
        """Those of them that began from another random state than the first of them."""
        self.met_others = 0
        """Evaluations that met other values in buffers than the first."""
        self._root: torch.nn.Module | None = None
        self._met: dict[tuple[int, str], tuple[torch.nn.Module, torch.Tensor]] = {}
        """The values of each buffer when a module was first called, and the module, so that its id stays its own."""
        self._moved: dict[tuple[int, str], torch.nn.Module] = {}
        self._dropouts: dict[int, torch.nn.Module] = {}
        self._called: set[int] = set()
        self._first_draw: RandomState | None = None
        self._began: RandomState = ()
        self._seen: RandomState = ()
        self._drew = self._met_other = False

    def begin(self) -> None:
        """Begin an evaluation."""
        self._called.clear()
        self._drew = self._met_other = False
        self._began = self._seen = _random_state()

    def end(self) -> None:
        """Count what this evaluation met."""
        self.look_at_random_state()
        if self._drew:
            self.drawing += 1
            if self._first_draw is None:
                self._first_draw = self._began
            else:
                self.drew_others += not _same_states(self._first_draw, self._began)
        self.met_others += self._met_other

    def look_at_random_state(self) -> None:
        """Note whether random numbers were drawn since the last look."""
        self._drew = self._drew or not _same_states(self._seen, _random_state())

    def overlook_random_state(self) -> None:
        """Let what was drawn since the last look not count: no loss depends on it."""
        self._seen = _random_state()

    def module_called(self, module: torch.nn.Module) -> None:
        """Compare a module's buffers with what its first evaluation met."""
        self._root = module if self._root is None else self._root
        if isinstance(module, _DropoutNd) and module.training and module.p:
            self._dropouts[id(module)] = module
        if not module._buffers or id(module) in self._called:
            return
        self._called.add(id(module))
        for name, tensor in module._buffers.items():
            if tensor is None or not _comparable(tensor):
                continue
            key = id(module), name
            with torch._C.DisableTorchFunction():
                if key not in self._met:
                    self._met[key] = module, tensor.detach().clone()
                elif not _same_values(self._met[key][1], tensor):
                    self._moved[key] = module
                    self._met_other = True

    @property
    def dropouts(self) -> list[str]:
        """Names of the dropout modules that were called, as the module that was called first knows them."""
        return self._names((module, "") for module in self._dropouts.values())

    @property
    def buffers(self) -> list[str]:
        """Names of the buffers that evaluations moved."""
        return self._names((module, name) for (_, name), module in self._moved.items())

    def _names(self, parts: Iterable[tuple[torch.nn.Module, str]]) -> list[str]:
        paths = {} if self._root is None else {id(module): path for path, module in self._root.named_modules()}
        found = (".".join(filter(None, (paths.get(id(m)) or type(m).__name__, name))) for m, name in parts)
        return list(dict.fromkeys(found))[:_LISTED]


def _random_state() -> RandomState:
    """Return torch's global random state: of the CPU, and of the current CUDA device where CUDA is in use."""
    on_gpu = (torch.cuda.get_rng_state(),) if torch.cuda.is_initialized() else ()
    return (torch.get_rng_state(), *on_gpu)


def _same_states(one: RandomState, other: RandomState) -> bool:
    with torch._C.DisableTorchFunction():
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=False))


def _comparable(tensor: torch.Tensor) -> bool:
    plain = tensor.layout is torch.strided and tensor.device.type != "meta" and not is_wrapped(tensor)
    return plain and tensor.numel() <= LARGEST_BUFFER


def _same_values(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two buffers are equal; NaN equals NaN, and what has become another shape or dtype does not."""
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())
