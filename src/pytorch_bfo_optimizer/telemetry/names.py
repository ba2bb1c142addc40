"""Which parameters are measured, and in which groups: both by name, both settled once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from pytorch_bfo_optimizer.errors import TelemetryError

Groups = Mapping[str, Iterable[str]] | Callable[[str], str | None]
"""Group name -> names of parameters, or of the modules that hold them; or a function of a parameter's name."""
_WRAPPER = "_orig_mod"
"""The part of a name that `torch.compile(module)` puts in."""


def named(named_parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return the parameters by name, read once; one that comes under several names keeps the first.

    Raises:
        TelemetryError: something other than pairs of a name and a tensor, or two tensors of one name.
    """
    found: dict[str, Tensor] = {}
    seen: dict[int, str] = {}
    for index, item in enumerate(named_parameters):
        if isinstance(item, Tensor) or not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)):
            raise TelemetryError(
                f"named_parameters[{index}] is {type(item).__name__}, and no pair of a name and a parameter: "
                "pass model.named_parameters()"
            )
        name, parameter = _unwrapped(item[0]), item[1]
        if not isinstance(parameter, Tensor):
            raise TelemetryError(f"named_parameters: {name!r} is {type(parameter).__name__}, and no tensor")
        if name in found and found[name] is not parameter:
            raise TelemetryError(f"named_parameters: the name {name!r} is there twice; give each model a prefix")
        if seen.setdefault(id(parameter), name) == name:
            found[name] = parameter
    return found


def members(names: tuple[str, ...], groups: Groups | None) -> dict[str, tuple[str, ...]]:
    """Return which parameters each group holds, in the order of `names`.

    Raises:
        TelemetryError: a group names what no parameter is called, or holds something other than names.
    """
    if groups is None:
        return {}
    if isinstance(groups, Mapping):
        return {group: _matching(names, group, wanted) for group, wanted in groups.items()}
    found: dict[str, list[str]] = {}
    for name in names:
        group = groups(name)
        if group is not None:
            found.setdefault(group, []).append(name)
    return {group: tuple(inside) for group, inside in found.items()}


def _matching(names: tuple[str, ...], group: str, wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the names that a group lists, or that lie in a module that it lists."""
    if isinstance(wanted, str):
        raise TelemetryError(f"groups[{group!r}] is a text: give a list of names, such as [{wanted!r}]")
    inside: set[str] = set()
    for given in wanted:
        if not isinstance(given, str):
            raise TelemetryError(f"groups[{group!r}] holds {type(given).__name__}: give names, not parameters")
        plain = _unwrapped(given)
        matching = {name for name in names if name == plain or name.startswith(f"{plain}.")}
        if not matching:
            near = difflib.get_close_matches(plain, names, n=3) or names[:3]
            raise TelemetryError(
                f"groups[{group!r}]: no parameter is called {plain!r} or lies in a module of that name; there is "
                f"{', '.join(near) or 'no parameter at all'}"
            )
        inside |= matching
    return tuple(name for name in names if name in inside)


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != _WRAPPER) if _WRAPPER in name else name
