"""From the text `file.py:name` or `pkg.mod:name` to a `Target` that makes a fresh `Case`.

What a name may be: a factory that returns a `Case` (or a module, or a step), a closure or step without arguments,
an `nn.Module` (or its class) with inputs, a `torch.optim.Optimizer` class, or what a framework trains.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bfo_diag import frames, framework_targets
from bfo_diag.attempt import attempt
from bfo_diag.errors import TargetLoadError
from bfo_diag.inputs import EXAMPLE, module_case, parse_input
from bfo_diag.records import Case, CaseRecord
from bfo_diag.sources import import_root

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Target:
    """What TARGET was found to be: `kind` is step, module, training step (of a framework) or optimizer.

    `make` gives a fresh case of all but the last.
    """

    record: CaseRecord
    kind: str
    value: Any
    inputs: tuple[str, ...] = ()
    device: str = "cpu"
    seed: int = 0

    def make(self) -> Case:
        """Return a fresh case; its step of a plain function is that function.

        Raises:
            TargetLoadError: the module wants inputs, or the factory returned nothing that can be examined.
        """
        import torch

        torch.manual_seed(self.seed)
        if self.kind == "module":
            return module_case(self._module(), self.inputs, self.device, self.seed)
        if self.kind == framework_targets.KIND:
            made = self.resolve(self.value() if inspect.isclass(self.value) else self.value)
            if made is None:
                raise TargetLoadError(f"{self.record.target}: calling it made nothing that a framework trains")
            return made
        return Case(step=self.value, name=self.record.name)

    def resolve(self, returned: object) -> Case | None:
        """Return the case that a factory's return value stands for, None where the call was the step itself."""
        import torch

        if isinstance(returned, Case):
            return returned
        if not self.inputs and (trained := framework_targets.case_of(returned, self.device)) is not None:
            return trained
        if isinstance(returned, torch.nn.Module):
            return module_case(returned, self.inputs, self.device, self.seed)
        if inspect.isfunction(returned) or isinstance(returned, functools.partial):
            return Case(step=returned, name=self.record.name)
        return None

    def remade(self, case: Case, returned: object) -> Case | None:
        """Return the case that the first call of `case.step` made, where the target's own function is a factory.

        Raises:
            TargetLoadError: inputs were given, and it is neither a module nor a factory of one.
        """
        if case.step is not self.value:  # a module's step, or a case's own, is no factory
            return None
        made = self.resolve(returned)
        if made is None and self.inputs:
            raise TargetLoadError(
                f"--input goes with an nn.Module, and {self.record.target} returned {type(returned).__name__}"
            )
        return made

    def _module(self) -> torch.nn.Module:
        import torch

        if isinstance(self.value, torch.nn.Module):
            return self.value
        module = self.value()
        if not isinstance(module, torch.nn.Module):
            raise TargetLoadError(f"{self.record.target}: made no nn.Module but {type(module).__name__}")
        return module


def parse(text: str) -> tuple[str, str]:
    """Split TARGET at its last colon into file or module, and name.

    Raises:
        TargetLoadError: there is no name in it.
    """
    where, colon, name = text.rpartition(":")
    if where.endswith(":") or name.endswith(")"):
        right = f"{where.rstrip(':')}:{name.partition('(')[0]}"
        raise TargetLoadError(
            f"TARGET {text!r} is not of the form file.py:name", mend=f"one colon, no parentheses: {right}"
        )
    if not colon or not where or not name:
        raise TargetLoadError(
            f"TARGET {text!r} names no object",
            mend="write path/to/file.py:name or package.module:name, such as train.py:train_step",
        )
    return where, name


def is_file(where: str) -> bool:
    """Whether the first half of a TARGET means a file and not a module."""
    return where.endswith(".py") or "/" in where or "\\" in where or Path(where).exists()


def check(text: str) -> None:
    """Refuse what can be seen to be wrong without importing anything.

    Raises:
        TargetLoadError: no name in it, or no such file.
    """
    where, _ = parse(text)
    if is_file(where):
        _check_file(Path(where))


def imported(text: str) -> tuple[Any, ModuleType]:
    """Import the file or module that a text of the form of TARGET names, and return the object and the module.

    Raises:
        TargetLoadError: no such file, module or attribute, or the import failed.
    """
    where, name = parse(text)
    module = _load_file(Path(where)) if is_file(where) else _load_module(where)
    return _attribute(module, name, text), module


def load(text: str, *, inputs: tuple[str, ...] = (), device: str = "cpu", seed: int = 0) -> Target:
    """Import the target's file or module, and find out what its name is.

    Raises:
        TargetLoadError: no such file, module or attribute; the import failed (its own traceback is in `detail`);
            it wants arguments; a device that is not there; a malformed input.
    """
    import torch

    check_device(device)
    for spec in inputs:
        parse_input(spec)
    torch.manual_seed(seed)
    where, name = parse(text)
    from_file = is_file(where)
    value, module = imported(text)
    kind = _kind(value, text, inputs)
    file, line = _definition(value, module)
    if kind == framework_targets.KIND and frames.owner_of_file(file or "") is not frames.Owner.USER:
        file, line = module.__file__, None  # a Trainer of the framework's own class: what it trains stands in the file
    identity = case_id(text, file, inputs, device, seed)
    shown = f"{Path(where).stem if from_file else where.rpartition('.')[2]}-{name}"
    record = CaseRecord(identity, shown, text, kind, file, line, inputs, device, seed)
    return Target(record, kind, value, inputs, device, seed)


def of_value(value: Any, *, inputs: tuple[str, ...] = (), device: str = "cpu", seed: int = 0) -> Target:
    """Return the target that an object of this process is: a step, a factory, a module, an optimizer class.

    Raises:
        TargetLoadError: it can't be examined, a device that is not there, or a malformed input.
    """
    import torch

    check_device(device)
    for spec in inputs:
        parse_input(spec)
    torch.manual_seed(seed)
    name = getattr(value, "__name__", type(value).__name__)
    kind = _kind(value, name, inputs)
    file, line = _definition(value, None)
    record = CaseRecord(case_id(name, file, inputs, device, seed), name, name, kind, file, line, inputs, device, seed)
    return Target(record, kind, value, inputs, device, seed)


def case_id(target: str, file: str | None, inputs: tuple[str, ...], device: str, seed: int) -> str:
    """Return a hash of what a case is: its target, the source text, its inputs, device and seed."""
    digest = hashlib.sha256()
    # The name and the text count, not the folder: the same file elsewhere is the same case.
    where, _, name = target.rpartition(":")
    source = Path(file).read_bytes() if file is not None and Path(file).is_file() else b""
    for part in (Path(where).name, name, *inputs, device, str(seed)):
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    digest.update(source)
    return digest.hexdigest()[:16]


def builtin_record(device: str, seed: int) -> CaseRecord:
    """Return what stands in the record for the built-in cases."""
    identity = case_id("bfo_diag.cases:all", None, (), device, seed)
    return CaseRecord(id=identity, name="builtin", device=device, seed=seed)


def resolve_device(device: str) -> str:
    """Return cuda or cpu for `auto`, else the device as it is named."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def use_device(device: str) -> None:
    """Make `cuda:N` the current device of this process: what is synchronised and asked for its memory is that one."""
    import torch

    if device.startswith("cuda") and torch.device(device).index is not None:
        torch.cuda.set_device(torch.device(device))


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        TargetLoadError: no such kind of device, or none on this machine.
    """
    import torch

    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise TargetLoadError(f"--device {device!r} is no device of torch", mend="use cpu, cuda or cuda:N") from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        built = "this build of torch has no CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        raise TargetLoadError(
            f"--device {device}: {built} (torch {torch.__version__})",
            mend="use --device cpu, or install a CUDA build of torch on a machine with a GPU",
        )
    if wanted.type == "cuda" and wanted.index is not None and wanted.index >= torch.cuda.device_count():
        raise TargetLoadError(
            f"--device {device}: there are {torch.cuda.device_count()} CUDA devices",
            mend=f"use cuda:0 to cuda:{torch.cuda.device_count() - 1}",
        )


def _check_file(path: Path) -> None:
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=3)
        hint = f"did you mean {', '.join(str(path.parent / n) for n in near)}?" if near else "check the path"
        raise TargetLoadError(f"there is no file {path}", mend=hint)
    if path.suffix != ".py":
        raise TargetLoadError(f"{path} is no Python file", mend="name a file that ends in .py")


def _load_file(path: Path) -> ModuleType:
    _check_file(path)
    path = path.resolve()
    root, names = import_root(path)
    if names[-1] == "__init__" and len(names) > 1:
        names.pop()
    # As `python file.py` would find its neighbours; a file of a package finds its package.
    sys.path.insert(0, str(root))
    frames.claim_for_user(root if len(names) == 1 else root / names[0])
    if len(names) > 1:
        return _import(".".join(names), str(path))
    name = path.stem if path.stem not in sys.modules and path.stem.isidentifier() else f"target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetLoadError(f"{path} can't be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader = spec.loader
    _run_import(lambda: loader.exec_module(module), str(path))
    return module


def _load_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    module = _import(name, name)
    top = sys.modules[name.partition(".")[0]]
    for folder in getattr(top, "__path__", None) or ([top.__file__] if top.__file__ else []):
        frames.claim_for_user(Path(folder))
    return module


def _import(name: str, shown: str) -> ModuleType:
    holder: list[ModuleType] = []
    _run_import(lambda: holder.append(importlib.import_module(name)), shown)
    return holder[0]


def _run_import(work: Callable[[], None], shown: str) -> None:
    alone = f"python {shown}" if shown.endswith(".py") else f"python -c 'import {shown}'"
    got = attempt(work)
    if got.timed_out:
        raise TargetLoadError(f"importing {shown} took longer than --timeout", mend="raise --timeout")
    if got.raised is not None:
        raise TargetLoadError(
            f"importing {shown} failed: {got.raised.type}: {got.raised.message}",
            mend=f"it must import on its own, in this environment and from this folder: {alone}",
            detail=got.raised.traceback,
        )


def _attribute(module: ModuleType, name: str, text: str) -> Any:
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            public = [n for n in dir(value) if not n.startswith("_")]
            near = difflib.get_close_matches(part, public, n=3)
            defined = [n for n in public if getattr(getattr(value, n), "__module__", None) == module.__name__]
            hint = f"did you mean {', '.join(near)}?" if near else f"it defines {', '.join(defined[:8]) or 'nothing'}"
            raise TargetLoadError(f"{text}: there is no {part!r} in {getattr(module, '__file__', module)}", mend=hint)
        value = getattr(value, part)
    return value


def _kind(value: Any, text: str, inputs: tuple[str, ...]) -> str:
    import torch

    cls = value.func if isinstance(value, functools.partial) else value
    if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer):
        return "optimizer"
    if not inputs and framework_targets.is_trained(value):
        if inspect.isclass(value):
            _refuse_arguments(value, text, "its class wants arguments")
        return framework_targets.KIND
    if isinstance(value, torch.nn.Module) or (inspect.isclass(cls) and issubclass(cls, torch.nn.Module)):
        if not inputs:
            raise TargetLoadError(
                f"{text} is an nn.Module, and a module alone says nothing of its inputs",
                mend=f"add {EXAMPLE} (one --input for each argument of forward)",
            )
        if inspect.isclass(cls):
            _refuse_arguments(value, text, "its class wants arguments")
        return "module"
    if isinstance(value, Case):
        raise TargetLoadError(
            f"{text} is a Case; each measurement needs a fresh one",
            mend="name a function without arguments that returns it",
        )
    if not callable(value):
        raise TargetLoadError(
            f"{text} is {type(value).__name__}, which can't be run",
            mend="name a factory, a step without arguments, an nn.Module or an Optimizer class",
        )
    if inspect.isclass(value):
        raise TargetLoadError(
            f"{text} is a class, and neither an nn.Module nor a torch.optim.Optimizer",
            mend="name a function without arguments that runs one step",
        )
    if inspect.isgeneratorfunction(value) or inspect.iscoroutinefunction(value):
        raise TargetLoadError(
            f"{text} is a generator or coroutine function: calling it runs nothing",
            mend="name a plain function that runs one step",
        )
    _refuse_arguments(value, text, "it wants arguments")
    return "step"


def _refuse_arguments(value: Any, text: str, why: str) -> None:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return
    wanted = [
        p.name
        for p in signature.parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if wanted:
        raise TargetLoadError(
            f"{text}: {why} ({', '.join(wanted)}), and there is nobody to give them",
            mend=f"add a function without arguments beside it that calls it, such as `def step(): return "
            f"{text.rpartition(':')[2]}(...)`, and name that",
        )


def _definition(value: Any, module: ModuleType | None) -> tuple[str | None, int | None]:
    thing = value.func if isinstance(value, functools.partial) else value
    thing = inspect.unwrap(thing) if callable(thing) and not inspect.isclass(thing) else thing
    if not (inspect.isfunction(thing) or inspect.ismethod(thing) or inspect.isclass(thing)):
        thing = type(thing)
    try:
        file = inspect.getsourcefile(thing)
        line = inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):
        return None if module is None else module.__file__, None
    return file, line
