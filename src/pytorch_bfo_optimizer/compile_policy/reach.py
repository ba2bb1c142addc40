"""Finds every changeable thing that a training step can get at: what has to be as it was after the step was tried.

A step holds its model, optimizer, counters and buffers in closures, in `self`, in globals. All of it is followed:
functions of the user's into their closures and the globals that their code names, objects into their attributes,
containers into their elements. Libraries are not entered, except for modules, optimizers, schedulers and scalers.
"""

from __future__ import annotations

import dis
import functools
import gc
import random
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

LARGE = 100_000
"""A container of more elements is data, and is neither entered nor kept."""

_OWNERS = (nn.Module, torch.optim.Optimizer, LRScheduler, torch.amp.GradScaler)
_CONTAINERS = (list, dict, set, deque)
_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, types.CodeType, type)
_OUR_OWN = __name__.rpartition(".")[0]


@dataclass
class Reached:
    """What was found, each thing once."""

    tensors: list[Tensor] = field(default_factory=list)
    containers: list[Any] = field(default_factory=list)
    """Lists, dicts (attributes of objects among them), sets and deques."""
    objects: list[Any] = field(default_factory=list)
    """Those with `__slots__`."""
    cells: list[types.CellType] = field(default_factory=list)
    globals: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    """A module's names, and one of them."""
    generators: list[Any] = field(default_factory=list)
    """torch.Generator, random.Random, and NumPy's."""
    arrays: list[Any] = field(default_factory=list)
    iterators: list[Any] = field(default_factory=list)
    """What can only go forward: generators, iterators of data loaders, open files."""
    modules: list[nn.Module] = field(default_factory=list)
    steppers: list[Any] = field(default_factory=list)
    """Optimizers, schedulers, loss scalers."""
    owned: set[int] = field(default_factory=set)
    """Ids of the tensors that belong to a module or a stepper: state, and never data."""


def reach(roots: Iterable[Any]) -> Reached:
    """Return all that can be reached from the roots, and the optimizers of any parameter found, wherever they are."""
    walk = _Walk()
    walk.run(roots)
    known = {id(tensor) for tensor in walk.found.tensors if tensor.requires_grad}
    walk.run(_steppers_of(known))
    found = walk.found
    held = _Walk(apart_from=found.modules)
    held.run(found.steppers)
    found.owned.update(id(tensor) for tensor in held.found.tensors)
    for module in found.modules:
        found.owned.update(map(id, (*module._parameters.values(), *module._buffers.values())))
    return found


def _steppers_of(params: set[int]) -> Iterator[Any]:
    """Yield the living optimizers that hold one of the parameters, their schedulers, and all loss scalers.

    A trainer of some library may hold them where the walk does not go.
    """
    living = [thing for thing in gc.get_objects() if issubclass(type(thing), _OWNERS[1:])]
    steps = {
        id(thing)
        for thing in living
        for group in getattr(thing, "param_groups", ())
        if any(id(param) in params for param in group["params"])
    }
    for thing in living:
        steps_or_schedules = id(thing) in steps or id(getattr(thing, "optimizer", None)) in steps
        if steps_or_schedules or isinstance(thing, torch.amp.GradScaler):
            yield thing


class _Walk:
    def __init__(self, apart_from: Iterable[Any] = ()) -> None:
        self.found = Reached()
        self._seen: dict[int, Any] = {id(thing): thing for thing in apart_from}
        """By id, the things themselves: an id is good only while its thing lives."""
        self._todo: list[tuple[Any, str]] = []
        """Things, with the library whose objects may be entered because an object of it holds them."""

    def run(self, roots: Iterable[Any]) -> None:
        for root in roots:
            if isinstance(root, types.FunctionType):  # whoever wrote it
                self._seen[id(root)] = root
                self._function(root)
            self._push(root)
        while self._todo:
            thing, library = self._todo.pop()
            self._visit(thing, library)

    def _push(self, thing: Any, library: str = "") -> None:
        kind = type(thing)
        if id(thing) not in self._seen and not issubclass(kind, _PLAIN):
            self._seen[id(thing)] = thing
            self._todo.append((thing, library))

    def _visit(self, thing: Any, library: str) -> None:
        kind = type(thing)
        if issubclass(kind, Tensor):
            self.found.tensors.append(thing)
        elif issubclass(kind, (tuple, frozenset)):
            self._elements(thing, library)
        elif issubclass(kind, _CONTAINERS):
            if len(thing) <= LARGE:
                self.found.containers.append(thing)
                self._elements(thing, library)
        elif kind is types.FunctionType:
            if _is_users(thing.__module__) and not thing.__module__.startswith(_OUR_OWN):
                self._function(thing)
        elif kind is types.MethodType:
            self._push(thing.__self__, library)
            self._push(thing.__func__, library)
        elif kind is functools.partial:
            self._elements((thing.func, thing.args, thing.keywords), library)
        elif kind in (torch.Generator, random.Random) or _of_numpy(kind, ("Generator", "RandomState")):
            self.found.generators.append(thing)
        elif _of_numpy(kind, ("ndarray",)):
            self.found.arrays.append(thing)
        elif hasattr(kind, "__next__") and not _is_users(kind.__module__):
            self.found.iterators.append(thing)
        else:
            self._object(thing, kind, library)

    def _elements(self, container: Any, library: str) -> None:
        if isinstance(container, dict):
            for key, value in list(container.items()):
                self._push(key, library)
                self._push(value, library)
            return
        for element in list(container):
            self._push(element, library)

    def _function(self, function: types.FunctionType) -> None:
        for cell in function.__closure__ or ():
            self.found.cells.append(cell)
            self._push(_contents(cell))
        self._push(function.__defaults__ or ())
        self._push(function.__kwdefaults__ or ())
        self._push(function.__dict__.get("__wrapped__"))
        if not _is_users(function.__globals__.get("__name__")):
            return  # a library's decorator around a function of the user's, which is in its closure
        names, attributes = _names(function.__code__)
        for name in names:
            self.found.globals.append((function.__globals__, name))
            value = function.__globals__.get(name)
            if isinstance(value, types.ModuleType):
                if _is_users(value.__name__):  # `import train` and `train.model`
                    for attribute in attributes & vars(value).keys():
                        self.found.globals.append((vars(value), attribute))
                        self._push(vars(value)[attribute])
            else:
                self._push(value)

    def _object(self, thing: Any, kind: type, library: str) -> None:
        owner = issubclass(kind, _OWNERS)
        package = kind.__module__.partition(".")[0]
        if kind.__module__.startswith(_OUR_OWN):
            self._push(getattr(thing, "__wrapped__", None))  # a step under a policy: its function, not our counts
            return
        if not (owner or _is_users(kind.__module__) or package == library or kind is types.SimpleNamespace):
            return
        within = package if owner and package != "torch" else library
        if owner:
            (self.found.modules if issubclass(kind, nn.Module) else self.found.steppers).append(thing)
        attributes = getattr(thing, "__dict__", None)
        if isinstance(attributes, dict):
            self._push(attributes, within)
        if any("__slots__" in vars(base) for base in kind.__mro__):
            self.found.objects.append(thing)
            for _, value in slots_of(thing):
                self._push(value, within)
        for base in kind.__mro__:
            if _is_users(base.__module__):
                for method in vars(base).values():
                    self._push(getattr(method, "__func__", method) if callable(method) else None, within)


def slots_of(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and value of each slot of an object that is set."""
    for base in type(thing).__mro__:
        names = vars(base).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__") and hasattr(thing, name):
                yield name, getattr(thing, name)


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _names(code: types.CodeType) -> tuple[set[str], set[str]]:
    """Return the global names, and the attributes, that code and the functions defined within it look up or set."""
    names: set[str] = set()
    attributes: set[str] = set()
    todo = [code]
    while todo:
        code = todo.pop()
        todo += (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
        for instruction in dis.get_instructions(code):
            if instruction.opname.endswith(("_GLOBAL", "_NAME")):
                names.add(instruction.argval)
            elif instruction.opname.endswith(("_ATTR", "_METHOD")):
                attributes.add(instruction.argval)
    return names, attributes


def _of_numpy(kind: type, names: tuple[str, ...]) -> bool:
    return kind.__module__.partition(".")[0] == "numpy" and kind.__name__ in names


@functools.cache
def _libraries() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(str(Path(folder).resolve()) for folder in folders)


@functools.cache
def _is_users(module: str | None) -> bool:
    """Whether a module is the user's own code: neither Python's nor installed."""
    top = (module or "").partition(".")[0]
    if not top or top in sys.stdlib_module_names:
        return module == "__main__"
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    if file is None:
        return module == "__main__"
    where = str(Path(file).resolve())
    return not (where.startswith(_libraries()) or "site-packages" in where or "dist-packages" in where)
