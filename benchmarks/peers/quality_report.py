"""The quality tables: verdicts on the rules, counts against each optimizer, mean ranks, and every cell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping

from peers import results
from peers.comparison import Cell, Gaps, Spread, Tally, mean_ranks, share, spread, tally
from peers.markdown import table, verdict
from peers.quality import DIMS
from peers.runners import BFO_PEERS, OURS, RUNNERS

BETTER_THAN_SCIPY = 0.8
LEVEL_OR_BETTER = 0.5
LEVEL_PEERS = ("NiaPy L-SHADE", "NiaPy L-SHADE 18D", "pycma", "EvoTorch CMAES")
SAME_AT_30 = "NiaPy L-SHADE 18D", "NiaPy L-SHADE"
"""18 D is 540, the default, in 30 dimensions: the same runs."""


def load(suite: str) -> dict[str, dict[Cell, list[float]]]:
    """The gaps of every optimizer in its present version; of a seed that was run twice, the later line."""
    everyone: dict[str, dict[Cell, list[float]]] = {}
    for name, runner in RUNNERS.items():
        version = results.version(runner)
        by_seed: dict[Cell, dict[int, float]] = {}
        for run in results.read(suite, name):
            if run.version == version:
                for checkpoint, gap in run.gaps.items():
                    cell = Cell(run.function, run.variant, run.dim, int(checkpoint))
                    by_seed.setdefault(cell, {})[run.seed] = gap
        everyone[name] = {cell: list(gaps.values()) for cell, gaps in by_seed.items()}
    copy, original = (everyone[name] for name in SAME_AT_30)
    if copy:
        copy.update({cell: gaps for cell, gaps in original.items() if cell.dim == 30})
    return {name: gaps for name, gaps in everyone.items() if gaps}


def sooner(suite: str, name: str) -> tuple[int, int]:
    """In how many of the cells that ours and this optimizer both solve ours needs fewer evaluations; of how many."""
    needed: dict[str, dict[Cell, list[float]]] = {OURS: {}, name: {}}
    for who, found in needed.items():
        version = results.version(RUNNERS[who])
        for run in results.read(suite, who):
            if run.version == version:
                for checkpoint in run.gaps:
                    cell = Cell(run.function, run.variant, run.dim, int(checkpoint))
                    solved = run.solved_at is not None and run.solved_at <= cell.evaluations
                    found.setdefault(cell, []).append(run.solved_at if solved else math.inf)
    medians = [
        (statistics.median_high(needed[OURS][cell]), statistics.median_high(needed[name][cell]))
        for cell in needed[OURS].keys() & needed[name].keys()
    ]
    both = [(mine, other) for mine, other in medians if max(mine, other) < math.inf]
    return sum(mine < other for mine, other in both), len(both)


def rules(everyone: Mapping[str, Gaps], sooner_than_scipy: tuple[int, int]) -> str:
    """The rules, each with its counts and whether it is reached; see `sooner` for the second argument."""
    if OURS not in everyone:
        return f"{OURS}: not measured in its present version.\n"
    rows = []
    for name in BFO_PEERS:
        if name in everyone:
            count = tally(everyone[OURS], everyone[name])
            rows.append(_ten_times(name, count))
    if "SciPy DE" in everyone:
        count = tally(everyone[OURS], everyone["SciPy DE"])
        rows += [_better_than_scipy(count), _better_or_sooner(count, *sooner_than_scipy)]
    for name in LEVEL_PEERS:
        if name in everyone:
            count = tally(everyone[OURS], everyone[name])
            good = count.win + count.level
            rows.append(
                [
                    f"level with {name}, or better, in half of the cells",
                    f"{good} of {count.cells} ({share(good, count.cells):.0%})",
                    verdict(share(good, count.cells) >= LEVEL_OR_BETTER),
                ]
            )
    return table(["rule", "counted", "reached"], rows)


def _ten_times(name: str, count: Tally) -> list[str]:
    open_cells = count.cells - count.both_solved
    return [
        f"a tenth of the gap of {name}, or less, in every cell that not both solve",
        f"{count.tenth} of {open_cells} ({share(count.tenth, open_cells):.0%}); both solve {count.both_solved} more",
        verdict(count.tenth == open_cells),
    ]


def _better_than_scipy(count: Tally) -> list[str]:
    untied = count.cells - count.tied
    of_all, of_untied = share(count.better, count.cells), share(count.better, untied)
    return [
        "a lower median than SciPy DE in 80 % of the cells",
        f"{count.better} of {count.cells} ({of_all:.0%}), {count.tied} tied, {count.worse} higher; without the ties "
        f"{of_untied:.0%}",
        verdict(of_all >= BETTER_THAN_SCIPY)
        + ("" if of_all >= BETTER_THAN_SCIPY or of_untied < BETTER_THAN_SCIPY else " (yes without the ties)"),
    ]


def _better_or_sooner(count: Tally, sooner: int, both_solved: int) -> list[str]:
    good = count.better + sooner
    return [
        "the same, where both solve it with fewer evaluations until then (median)",
        f"{good} of {count.cells} ({share(good, count.cells):.0%}); sooner in {sooner} of the {both_solved} both solve",
        verdict(share(good, count.cells) >= BETTER_THAN_SCIPY),
    ]


def counts(everyone: Mapping[str, Gaps]) -> str:
    """Win, level, loss of ours against each of the others: all cells, and by dimension and budget."""
    if OURS not in everyone:
        return ""
    ours = everyone[OURS]
    slices = [("all", ours), *((f"d = {dim}", _only(ours, dim=dim)) for dim in DIMS)]
    slices += [(f"{budget:,}", _only(ours, evaluations=budget)) for budget in _budgets(everyone)]
    rows = []
    for name, gaps in everyone.items():
        if name == OURS:
            continue
        found = [tally(part, gaps) for _, part in slices]
        first = found[0]
        row = [name, *(f"{count.win} / {count.level} / {count.loss}" for count in found)]
        rows.append([*row, f"{first.better} / {first.tied} / {first.worse}"])
    return table(["against", *(title for title, _ in slices), "medians alone"], rows)


def ranks(everyone: Mapping[str, Gaps]) -> str:
    """Mean rank at each budget, of those who were run in every cell that ours was run in."""
    columns = {}
    for budget in _budgets(everyone):
        cells = {cell for cell in everyone.get(OURS, next(iter(everyone.values()))) if cell.evaluations == budget}
        columns[f"{budget:,}"] = mean_ranks(everyone, cells)
    names = list(dict.fromkeys(name for ranked in columns.values() for name in ranked))
    rows = [
        [name, *(f"{ranked[name]:.2f}" if name in ranked else "not in every cell" for ranked in columns.values())]
        for name in names
    ]
    return table(["optimizer", *columns], rows)


def cells(everyone: Mapping[str, Gaps]) -> Iterator[str]:
    """One table for each dimension and budget: median gap, quartiles, seeds."""
    every = sorted(
        {cell for gaps in everyone.values() for cell in gaps}, key=lambda cell: (cell.dim, cell.evaluations, cell)
    )
    for dim, budget in dict.fromkeys((cell.dim, cell.evaluations) for cell in every):
        part = [cell for cell in every if (cell.dim, cell.evaluations) == (dim, budget)]
        problems = dict.fromkeys((cell.function, cell.variant) for cell in part)
        names = [name for name, gaps in everyone.items() if any(cell in gaps for cell in part)]
        rows = []
        for function, variant in problems:
            cell = Cell(function, variant, dim, budget)
            found = [everyone[name].get(cell) for name in names]
            rows.append([function, variant, *(_shown(spread(gaps)) if gaps else "not measured" for gaps in found)])
        yield f"**d = {dim}, {budget:,} evaluations**\n\n" + table(["function", "variant", *names], rows)


def seeds(everyone: Mapping[str, Gaps]) -> dict[str, str]:
    """How many seeds the cells of each optimizer have: "11", or "5 to 6"."""
    found = {}
    for name, gaps in everyone.items():
        sizes = sorted({len(values) for values in gaps.values()})
        found[name] = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return found


def _shown(found: Spread) -> str:
    if found.high <= 1e-8:
        return f"solved; {found.count}"
    middle = "solved" if found.solved else f"{found.median:.2g}"
    return f"{middle} ({found.low:.1g} to {found.high:.1g}; {found.count})"


def _only(gaps: Gaps, *, dim: int | None = None, evaluations: int | None = None) -> Gaps:
    return {
        cell: values
        for cell, values in gaps.items()
        if dim in (None, cell.dim) and evaluations in (None, cell.evaluations)
    }


def _budgets(everyone: Mapping[str, Gaps]) -> list[int]:
    return sorted({cell.evaluations for gaps in everyone.values() for cell in gaps})
