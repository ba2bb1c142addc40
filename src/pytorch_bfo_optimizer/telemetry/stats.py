"""What one sample of the gradients says: its numbers, its health and status, and the thresholds behind them.

    health = clamp(1 - 0.5 v - 0.8 e, 0, 1), and 0 with any NaN or Inf,

where v and e are the shares of the tensors whose gradient has a norm that vanishes or explodes, of all tensors whose
gradient has any element.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TypedDict

from pytorch_bfo_optimizer.errors import HyperparameterError

VANISHING_NORM = 1e-7
"""A tensor whose gradient's norm (ord 2) is below this vanishes. Adam divides by sqrt(v) + 1e-8: the root mean square
of such a gradient is below that 1e-8 from a hundred elements on."""
EXPLODING_NORM = 1e4
"""A tensor whose gradient's norm (ord 2) is above this explodes."""
VANISHING_WEIGHT = 0.5
"""What the share of vanishing tensors takes from the health."""
EXPLODING_WEIGHT = 0.8
"""What the share of exploding tensors takes from the health."""

NO_GRADIENTS, NON_FINITE, EXPLODING, VANISHING, HEALTHY = (
    "no gradients",
    "non-finite",
    "exploding",
    "vanishing",
    "healthy",
)
_SCALARS = (
    "total_norm",
    "min_norm",
    "max_norm",
    "mean_norm",
    "vanishing",
    "exploding",
    "zero_share",
    "health",
    "ratio",
)


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """What is measured, and from where on a norm is too small or too large.

    Raises:
        HyperparameterError: a threshold that is no positive number, the two in the wrong order, or no count.
    """

    vanishing_norm: float = VANISHING_NORM
    exploding_norm: float = EXPLODING_NORM
    zero_every: int = 10
    """At the first of so many samples zeros are counted; 0: never. It costs half more than norms do."""

    def __post_init__(self) -> None:
        """Check the thresholds."""
        low, high = self.vanishing_norm, self.exploding_norm
        if not (math.isfinite(low) and math.isfinite(high) and 0 <= low < high):
            raise HyperparameterError(
                f"vanishing_norm is {low!r} and exploding_norm {high!r}: they must be finite, not negative, and the "
                f"first below the second; {VANISHING_NORM:g} and {EXPLODING_NORM:g} are the defaults"
            )
        if isinstance(self.zero_every, bool) or not isinstance(self.zero_every, int) or self.zero_every < 0:
            raise HyperparameterError(
                f"zero_every is {self.zero_every!r}: it must be an integer of at least 0; 1 counts zeros always"
            )


def health(vanishing: float, exploding: float, *, finite: bool) -> float:
    """Return the health in [0, 1] of shares in [0, 1] of vanishing and exploding tensors; 0 unless all is finite."""
    if not finite:
        return 0.0
    return min(1.0, max(0.0, 1.0 - VANISHING_WEIGHT * vanishing - EXPLODING_WEIGHT * exploding))


class GroupStatsDict(TypedDict):
    """`GroupStats` as a dict."""

    norm: float
    tensors: int
    elements: int


class GradientStatsDict(TypedDict):
    """`GradientStats` as a dict of plain values, each documented there. Norms may be NaN or Inf."""

    step: int | None
    names: list[str]
    norms: list[float]
    zero_shares: list[float] | None
    total_norm: float | None
    min_norm: float | None
    max_norm: float | None
    mean_norm: float | None
    vanishing: int
    exploding: int
    zero_share: float | None
    nan_counts: dict[str, int]
    inf_counts: dict[str, int]
    not_counted: list[str]
    missing: list[str]
    elements: int
    health: float | None
    status: str
    groups: dict[str, GroupStatsDict]
    ratio: float | None


@dataclass(frozen=True, slots=True)
class GroupStats:
    """The gradients of one group: ord-2 norm over all of them, how many tensors, how many elements."""

    norm: float
    tensors: int
    elements: int

    @property
    def root_mean_square(self) -> float | None:
        """Norm / sqrt(elements), which groups of different sizes can be compared by; None of an empty group."""
        return self.norm / math.sqrt(self.elements) if self.elements else None


@dataclass(frozen=True, slots=True)
class GradientStats:
    """One sample. Norms are of ord 2, in units of loss per unit of the parameter; `norms[i]` is that of `names[i]`."""

    step: int | None
    """What `collect(step=...)` was given."""
    names: tuple[str, ...]
    """The parameters that have a gradient, in their order."""
    norms: tuple[float, ...]
    zero_shares: tuple[float, ...] | None
    """Of each tensor the share of its elements that are exactly zero; None where zeros were not counted."""
    total_norm: float | None
    """Over all tensors together, as `torch.nn.utils.get_total_norm`; not finite where one of them is not."""
    min_norm: float | None
    """The least finite norm of a tensor; `max_norm` and `mean_norm` likewise; None where there is none."""
    max_norm: float | None
    mean_norm: float | None
    vanishing: int
    """How many tensors have a norm below `TelemetryConfig.vanishing_norm`, zero included."""
    exploding: int
    """How many have a finite norm above `TelemetryConfig.exploding_norm`."""
    zero_share: float | None
    """Of all elements the share that is exactly zero; None where zeros were not counted (`zero_every`)."""
    nan_counts: Mapping[str, int] = field(default_factory=dict)
    """How many NaN each tensor holds that holds any, exactly; `inf_counts` likewise, of either sign."""
    inf_counts: Mapping[str, int] = field(default_factory=dict)
    not_counted: tuple[str, ...] = ()
    """Tensors whose norm is not finite and whose elements changed between `collect` and `materialize`."""
    missing: tuple[str, ...] = ()
    """Parameters that require a gradient and have none."""
    elements: int = 0
    """Of all gradients together."""
    health: float | None = None
    """In [0, 1], see `health`; None where there are no gradients."""
    status: str = NO_GRADIENTS
    """`no gradients`, `non-finite`, `exploding`, `vanishing` or `healthy`: the first of them that holds."""
    groups: Mapping[str, GroupStats] = field(default_factory=dict)
    ratio: float | None = None
    """Of exactly two groups: root mean square of the first / that of the second; None where either is empty or zero."""

    @property
    def non_finite(self) -> tuple[str, ...]:
        """The tensors that hold NaN or Inf, as far as is known."""
        suspects = {*self.nan_counts, *self.inf_counts, *self.not_counted}
        return tuple(name for name in self.names if name in suspects)

    def scalars(self, *, tensors: bool = True) -> dict[str, float]:
        """Return what a chart can show, by name; what is None is left out, NaN and Inf are not.

        Of the whole: the fields, `non_finite`, `not_counted` and `missing` as numbers of tensors, `nan` and `inf` as
        numbers of elements. Of a group: `group/NAME/norm` and `group/NAME/root_mean_square`. Of each of the `tensors`:
        `norm/NAME`, `zero_share/NAME`, and where there is any `nan/NAME` and `inf/NAME`.
        """
        found: dict[str, float | None] = {name: getattr(self, name) for name in _SCALARS}
        found |= {name: len(getattr(self, name)) for name in ("non_finite", "not_counted", "missing")}
        found |= {"nan": sum(self.nan_counts.values()), "inf": sum(self.inf_counts.values())}
        for name, group in self.groups.items():
            found |= {f"group/{name}/norm": group.norm, f"group/{name}/root_mean_square": group.root_mean_square}
        if tensors:
            found |= {f"norm/{name}": norm for name, norm in zip(self.names, self.norms, strict=True)}
            shares = zip(self.names, self.zero_shares or (), strict=False)
            found |= {f"zero_share/{name}": share for name, share in shares}
            found |= {f"nan/{name}": count for name, count in self.nan_counts.items()}
            found |= {f"inf/{name}": count for name, count in self.inf_counts.items()}
        return {name: value for name, value in found.items() if value is not None}

    def to_dict(self) -> GradientStatsDict:
        """Return all of it as plain values."""
        plain = asdict(self)
        for name in ("names", "norms", "not_counted", "missing"):
            plain[name] = list(plain[name])
        plain["zero_shares"] = None if self.zero_shares is None else list(self.zero_shares)
        return plain  # type: ignore[return-value]  # asdict knows no TypedDict; a test compares the keys and types


def health_of(tensors: int, vanishing: int, exploding: int, *, finite: bool) -> float | None:
    """Return the health of a sample; None of one without gradients: that is no perfect health."""
    if not tensors:
        return None
    return health(vanishing / tensors, exploding / tensors, finite=finite)


def status_of(tensors: int, vanishing: int, exploding: int, *, finite: bool) -> str:
    """Return the gravest of what holds, in a word or two."""
    if not tensors:
        return NO_GRADIENTS
    if not finite:
        return NON_FINITE
    return EXPLODING if exploding else VANISHING if vanishing else HEALTHY


def ratio_of(groups: Mapping[str, GroupStats]) -> float | None:
    """Return the root mean square of the first of two groups over that of the second."""
    if len(groups) != 2:
        return None
    first, second = (group.root_mean_square for group in groups.values())
    if first is None or not second or not math.isfinite(first) or not math.isfinite(second):
        return None
    return first / second
