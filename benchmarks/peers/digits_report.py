"""The section on the digits MLP, from its runs alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from peers.comparison import spread
from peers.digits import DigitsRun
from peers.digits_loss import BUDGET, POPULATION
from peers.markdown import NOT_ON_REGISTRY, table, verdict
from peers.runners import OURS

Losses = dict[tuple[str, str], list[float]]
"""(optimizer, setting) -> the losses of its seeds."""


def section(runs: Sequence[DigitsRun]) -> str:
    """What was trained, the losses by setting, and the rule."""
    losses: Losses = {}
    for run in runs:
        losses.setdefault((run.optimizer, run.setting), []).append(run.loss)
    if not losses:
        return "not measured\n"
    text = (
        f"A 64-32-10 MLP (tanh, torch's default initialisation) on all 1797 digits, pixels / 16, mean cross-entropy, "
        f"float32, {BUDGET:,} evaluations, population {POPULATION}. The lowest loss seen; of the evolution strategies "
        "the final mean is looked at too, beyond the budget. The others were tried in several settings and are judged "
        "by their best; ours is given as it comes (`None` is its own default population).\n"
    )
    return "\n".join([text, _settings(losses), rule(losses)])


def best_of(losses: Losses, optimizer: str) -> float | None:
    """The lowest median of this optimizer's settings."""
    return min((statistics.median(found) for (name, _), found in losses.items() if name == optimizer), default=None)


def _settings(losses: Losses) -> str:
    rows = []
    for (name, setting), found in sorted(losses.items(), key=lambda item: statistics.median(item[1])):
        loss = spread(found)
        mark = "best setting" if name != OURS and loss.median == best_of(losses, name) else ""
        quartiles = f"{loss.low:.3f} to {loss.high:.3f}"
        rows.append([name, setting or "defaults", f"{loss.median:.3f}", quartiles, str(loss.count), mark])
    rows.append(["bfo-torch", "", NOT_ON_REGISTRY, "", "", ""])
    return table(["optimizer", "setting", "median loss", "quartiles", "seeds", ""], rows)


def rule(losses: Losses) -> str:
    """Whether the loss of ours, at the same population, is at or below the best of each of the others."""
    ours = losses.get((OURS, f"population_size={POPULATION}"))
    if ours is None:
        return f"{OURS}: not measured in its present version.\n"
    mine, rows = statistics.median(ours), []
    for name in dict.fromkeys(name for name, _ in losses if name != OURS):
        theirs = best_of(losses, name)
        assert theirs is not None
        rows.append([f"a loss at or below that of {name}", f"{mine:.3f} against {theirs:.3f}", verdict(mine <= theirs)])
    return table(["rule", f"{OURS}, population {POPULATION}", "reached"], rows)
