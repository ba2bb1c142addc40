"""The section on cost, from its blocks alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peers.comparison import paired_ratios, spread
from peers.cost import BARE, Block
from peers.cost_sides import BATCHED, BLOCK, ONE_BY_ONE, POPULATION
from peers.markdown import table, verdict
from peers.runners import OURS

PEER = "EvoX OpenES"


def section(blocks: Sequence[Block], version: str) -> str:
    """Own milliseconds for 1000 evaluations, the ratios to the peer, and generations against bare evaluations."""
    if not blocks:
        return "not measured\n"
    text = (
        f"CPU time of an optimizer itself, the evaluations taken off: population {POPULATION}, sphere, float32, one "
        f"thread, eager. Blocks of {BLOCK:,} evaluations, all sides interleaved in one process, the order of each "
        "round the reverse of the one before. EvoX without its workflow; ours by `minimize`, ten generations a call, "
        "and by `step`.\n"
    )
    if any(block.version != version for block in blocks if block.optimizer == OURS):
        text = f"**Measured with an earlier source of {OURS}.**\n\n{text}"
    return "\n".join([text, _own(blocks), _rules(blocks)])


def _own(blocks: Sequence[Block]) -> str:
    dims, rows = _dims(blocks), []
    for name in [*BATCHED, *ONE_BY_ONE]:
        row = [name]
        for dim in dims:
            found = [block.own_ms for block in blocks if _is(block, "sphere", dim, name)]
            row.append(_shown(found, "not measured", digits=2))
        rows.append(row)
    return table(["ms for 1000 evaluations: median (quartiles; blocks)", *(f"d = {dim}" for dim in dims)], rows)


def _rules(blocks: Sequence[Block]) -> str:
    rows = []
    for dim in _dims(blocks):
        found = ratios(blocks, "sphere", dim, (OURS, PEER), lambda block: block.own_ms)
        reached = verdict(spread(found).median <= 1) if found else ""
        rows.append([f"{OURS} / {PEER}, own cost at d = {dim}, at most 1", _shown(found, "not measured"), reached])
    for dim in sorted({block.dim for block in blocks if block.subject == "digits"}):
        for name in BATCHED:
            found = ratios(blocks, "digits", dim, (name, BARE), lambda block: block.whole_ms)
            rows.append(
                [f"{name}: generations over the digits MLP / bare evaluations", _shown(found, "not measured"), ""]
            )
    return table(["ratio of CPU times", "median (quartiles; rounds)", "reached"], rows)


def ratios(
    blocks: Sequence[Block], subject: str, dim: int, names: tuple[str, str], cost: Callable[[Block], float]
) -> list[float]:
    """First / second, round by round."""
    first, second = ({b.round: cost(b) for b in blocks if _is(b, subject, dim, name)} for name in names)
    return paired_ratios(first, second)


def _is(block: Block, subject: str, dim: int, name: str) -> bool:
    return (block.subject, block.dim, block.optimizer) == (subject, dim, name)


def _dims(blocks: Sequence[Block]) -> list[int]:
    return sorted({block.dim for block in blocks if block.subject == "sphere"})


def _shown(values: list[float], nothing: str, digits: int = 3) -> str:
    if not values:
        return nothing
    found = spread(values)
    return f"{found.median:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f}; {found.count})"
