"""What came of all turnovers of a training, in figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pytorch_bfo_optimizer.turnover.events import TurnoverEvent
from pytorch_bfo_optimizer.turnover.lineage import Lineage


def summarised(events: Sequence[TurnoverEvent], lineage: Lineage, widths: Mapping[str, int]) -> dict[str, Any]:
    """Return births, deaths, widths, survival, diversity, jumps and the lineage itself, as JSON values.

    A jump is what the turnover of one step added to the loss that was measured: `loss_after - loss_before`.
    """
    pairs = {event.step: (event.loss_before, event.loss_after) for event in events}
    jumps = [after - before for before, after in pairs.values() if before is not None and after is not None]
    return {
        "births": sum(len(event.neurons) for event in events if event.kind == "birth"),
        "deaths": sum(len(event.neurons) for event in events if event.kind == "death"),
        "events": len(events),
        "widths": {name: {"first": lineage.widths[name], "last": width} for name, width in widths.items()},
        "founders": sum(lineage.widths.values()),
        "founders_alive": lineage.founders_alive(),
        "survival": lineage.survival(),
        "diversity": asdict(lineage.diversity()),
        "jumps": len(jumps),
        "jump_mean": math.fsum(jumps) / len(jumps) if jumps else None,
        "jump_max": max(jumps, default=None),
        "lineage": lineage.plain(),
    }
