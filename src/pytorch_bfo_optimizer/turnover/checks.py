"""Settings of a `TurnoverManager` that contradict each other, or are out of range."""

from __future__ import annotations

from collections.abc import Mapping

from pytorch_bfo_optimizer.errors import HyperparameterError
from pytorch_bfo_optimizer.state import require_number
from pytorch_bfo_optimizer.turnover.schedule import Never, Schedule
from pytorch_bfo_optimizer.turnover.selectors import Selector


def refuse_unfit(
    select: Selector | None, schedule: object, fraction: object, grow_to: float | int | None, grow: object
) -> None:
    """Check what can be checked without a model.

    Raises:
        HyperparameterError: naming the setting, its value and the mend.
    """
    if not isinstance(schedule, Schedule):
        raise HyperparameterError(
            f"schedule is {schedule!r}: use Every(steps), Continuous(rate), Once(step) or Never()"
        )
    require_number("fraction", fraction, low=0, high=1, open_low=True, open_high=True, mend="0.05 is usual")
    if grow not in ("newborn", "split"):
        raise HyperparameterError(f"grow is {grow!r}: use 'newborn' or 'split'")
    if select is None and grow_to is None and not isinstance(schedule, Never):
        raise HyperparameterError(
            "select is None and grow_to is None: nobody would die and nobody be born; name a selector, give grow_to, "
            "or use the preset 'none' for a control"
        )


def refuse_cap(grow_to: float | int | None, widths: Mapping[str, int]) -> None:
    """Check the width to grow to against the first widths.

    Raises:
        HyperparameterError: it is neither a width of at least the first, nor a factor of at least 1.
    """
    if grow_to is None:
        return
    if isinstance(grow_to, bool) or not isinstance(grow_to, (int, float)):
        raise HyperparameterError(f"grow_to is {grow_to!r}: give a width (128) or a factor (1.5)")
    if isinstance(grow_to, float):
        require_number("grow_to", grow_to, low=1, high=1e6, mend="1.5 times the first width, say")
        return
    for name, width in widths.items():
        if grow_to < width:
            raise HyperparameterError(
                f"grow_to is {grow_to}, and {name!r} has {width} neurons: an integer is the width to grow to; a factor "
                f"is a float, as {float(grow_to)}"
            )
