"""A recipe: what `bfo-diag run` trains, as frozen values, and what each key may hold. Needs no torch.

How it is read from TOML is in `reading.py`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bfo_diag.errors import DiagError
from bfo_diag.records import JSONValue

Enabled = Literal["auto"] | bool
SWITCH: dict[str, Enabled] = {"auto": "auto", "on": True, "off": False}
"""The values of --compile."""

GRADIENT_MODES = ("smart", "dual", "config", "minimal", "as-is")
"""The names of `pytorch_bfo_optimizer.gradient_modes.MODES`."""
COLONIES = ("BFO", "AdaptiveBFO", "HybridBFO")
"""The optimizers of pytorch_bfo_optimizer: they evaluate the loss themselves, by a closure."""
PRESETS = (
    "none",
    "standard",
    "functional",
    "fade",
    "continuous",
    "distillation",
    "growth",
    "hybrid",
    "crossover",
    "orthogonal",
)
"""Those of `pytorch_bfo_optimizer.turnover`."""


@dataclass(frozen=True)
class Allowed:
    """What a key may hold: in words, as a test, and the names to choose from, if it is a name."""

    says: str
    takes: Callable[[Any], bool]
    names: tuple[Any, ...] = ()


def listed(names: tuple[Any, ...]) -> str:
    """Return names as they are written in TOML."""
    return ", ".join(str(name).lower() if isinstance(name, bool) else str(name) for name in names)


def _key(default: Any, allowed: Allowed) -> Any:
    """Return a field of a table; `...` where the recipe has to give it."""
    metadata = {"allowed": allowed}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


def whole(*, least: int) -> Allowed:
    """Return what a count is."""
    return Allowed(f"a whole number of at least {least}", lambda value: type(value) is int and value >= least)


def _number(says: str, takes: Callable[[float], bool]) -> Allowed:
    return Allowed(f"a number {says}", lambda value: type(value) in (int, float) and takes(value))


def _one_of(*names: Any) -> Allowed:
    # (By type too: true is no 1.)
    kinds = [(type(name), name) for name in names]
    return Allowed(f"one of {listed(names)}", lambda value: (type(value), value) in kinds, names)


SEED = Allowed("a whole number from 0 to 2**63 - 1", lambda value: type(value) is int and 0 <= value < 2**63)
TEXT = Allowed("a text that is not empty", lambda value: isinstance(value, str) and bool(value.strip()))
_YES_NO = _one_of(True, False)
_PATTERNS = Allowed(
    "a text, or a list of texts",
    lambda value: bool(value) and all(map(TEXT.takes, value if isinstance(value, list) else [value])),
)
_PHASES = Allowed(
    "three whole numbers of at least 1",
    lambda value: isinstance(value, list) and len(value) == 3 and all(map(whole(least=1).takes, value)),
)


@dataclass(frozen=True)
class Data:
    """What is learned from; `validation` is the share that is held back where there are no folds."""

    name: str = _key(..., _one_of("digits", "text"))
    batch_size: int = _key(64, whole(least=1))
    validation: float | None = _key(None, _number("above 0 and below 1", lambda value: 0 < value < 1))
    samples: int | None = _key(None, whole(least=2))
    """How many are used, the first ones; all of them without it."""
    context: int | None = _key(None, whole(least=1))
    """Characters of a sample of text."""


@dataclass(frozen=True)
class Model:
    """A built-in model, or `factory`: `file.py:name` beside the recipe, or `package.module:name`."""

    name: str | None = _key(None, _one_of("mlp", "char-transformer"))
    factory: str | None = _key(None, TEXT)
    width: int | None = _key(None, whole(least=1))
    depth: int | None = _key(None, whole(least=1))
    """Hidden layers of the MLP, blocks of the transformer."""
    dropout: float | None = _key(None, _number("from 0 and below 1", lambda value: 0 <= value < 1))


@dataclass(frozen=True)
class Optimizer:
    """A class of torch.optim or of pytorch_bfo_optimizer, and its keyword arguments."""

    name: str
    arguments: Mapping[str, JSONValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """How long, on how many folds, and when it ends before."""

    epochs: int = _key(10, whole(least=1))
    folds: int = _key(1, whole(least=1))
    patience: int | None = _key(None, whole(least=1))
    """Epochs without a better validation loss after which a fold ends; never, without it."""
    min_delta: float = _key(0.0, _number("of at least 0", lambda value: 0 <= value < float("inf")))
    """By how much a validation loss has to be lower to be better."""
    clip_norm: float | None = _key(None, _number("above 0", lambda value: 0 < value < float("inf")))
    autocast: str | None = _key(None, _one_of("bfloat16"))
    gradient_mode: str | None = _key(None, _one_of(*GRADIENT_MODES))
    """How HybridBFO's step is given its gradient; without it as HybridBFO does it by itself, which is "config"."""


@dataclass(frozen=True)
class Telemetry:
    """At every how many steps the gradients are measured; 0 for never."""

    every: int = _key(0, whole(least=0))


@dataclass(frozen=True)
class Compile:
    """Whether torch.compile is applied, and how: see `pytorch_bfo_optimizer.compile_policy`."""

    enabled: Literal["auto"] | bool = _key(False, _one_of("auto", True, False))
    mode: str = _key("default", _one_of("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"))
    fullgraph: bool = _key(False, _YES_NO)
    fallback: Literal["eager", "raise"] = _key("eager", _one_of("eager", "raise"))
    """What to do where it does not compile."""
    backend: str = _key("inductor", TEXT)


@dataclass(frozen=True)
class Turnover:
    """How neurons die and are born: see `pytorch_bfo_optimizer.turnover`."""

    preset: str = _key("none", _one_of(*PRESETS))
    layers: str | tuple[str, ...] | None = _key(None, _PATTERNS)
    """Patterns of the names of the layers that are widened or narrowed; all that can be, without it."""
    fraction: float = _key(0.05, _number("above 0 and below 1", lambda value: 0 < value < 1))
    """Of a layer's neurons, at each turnover."""
    every: int = _key(100, whole(least=1))
    """Steps between two turnovers."""
    grow_to: float | None = _key(None, _number("of at least 1", lambda value: 1 <= value < float("inf")))
    """For the preset growth: the width at which a layer has grown up (a whole number), or by what factor."""
    measure: bool = _key(False, _YES_NO)
    """Whether the validation loss is measured before and after each turnover."""


@dataclass(frozen=True)
class Shift:
    """Learns A, the data as they are, then B, then A again. Which B is, is the same for every seed."""

    kind: Literal["permute", "labels"] | None = _key(None, _one_of("permute", "labels"))
    """B: the pixels, or the codes of the characters, in another order; or each digit under the name of the next."""
    epochs: tuple[int, ...] | None = _key(None, _PHASES)
    """Of each of the three phases; `training.epochs` is their sum."""
    check_every: int = _key(5, whole(least=1))
    """Steps between two looks, in the third phase, at whether A is known again."""


TABLES: dict[str, type[Any]] = {
    "data": Data,
    "model": Model,
    "training": Training,
    "compile": Compile,
    "telemetry": Telemetry,
    "turnover": Turnover,
    "shift": Shift,
}


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. `name` is the file's where it gives none."""

    name: str
    seed: int
    data: Data
    model: Model
    optimizer: Optimizer
    training: Training
    compile: Compile
    telemetry: Telemetry
    turnover: Turnover
    shift: Shift

    def to_json(self) -> dict[str, JSONValue]:
        """Return what a recipe file would say; the optimizer's arguments stand beside its name."""
        whole = dataclasses.asdict(self)
        whole["optimizer"] = {"name": self.optimizer.name, **self.optimizer.arguments}
        return whole

    def with_options(self, *, seed: int, compile: str | None, telemetry: str | None) -> Recipe:
        """Return the recipe with what the command's options say in its place.

        Raises:
            DiagError: an option says nothing that is known.
        """
        made = replace(self, seed=seed or self.seed)
        if compile is not None:
            if compile not in SWITCH:
                raise DiagError(f"--compile {compile} is not known", mend=f"choose from {', '.join(SWITCH)}")
            made = replace(made, compile=replace(self.compile, enabled=SWITCH[compile]))
        if telemetry is not None:
            said = re.fullmatch(r"every=([0-9]{1,9})", telemetry)
            if said is None:
                raise DiagError(f"--telemetry {telemetry} is not known", mend="write --telemetry every=10")
            made = replace(made, telemetry=Telemetry(int(said[1])))
        return made


def differences(there: JSONValue, here: JSONValue, prefix: str = "") -> Iterator[str]:
    """Yield `training.epochs: 10 there, 20 here` for each value in which two recipes differ, as `to_json` gives them.

    A name, and how often gradients are measured, change nothing of what is trained.
    """
    if not (isinstance(there, Mapping) and isinstance(here, Mapping)):
        if there != here and not prefix.startswith(("telemetry.", "name.")):
            yield f"{prefix.rstrip('.')}: {_said(there)} there, {_said(here)} here"
        return
    for key in dict.fromkeys((*there, *here)):
        yield from differences(there.get(key), here.get(key), f"{prefix}{key}.")


def _said(value: JSONValue) -> str:
    return "nothing" if value is None else str(value)
