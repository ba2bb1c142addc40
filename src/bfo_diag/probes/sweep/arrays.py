"""Orthogonal arrays for Taguchi's designs: from pydoe, and verified before use.

G. Taguchi, S. Chowdhury, Y. Wu, Taguchi's Quality Engineering Handbook, Wiley 2005. An array of strength 2 has, in any
two of its columns, all pairs of their levels equally often: so the mean over the rows of one level compares that level
alone. Not every table in circulation is one: of pydoe 1.6.0, L64(2^31) is not. Names of arrays are names and no more
(its L27(2^1 3^12) has 13 columns of three levels): what counts is what stands in the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from bfo_diag.errors import DiagError
from bfo_diag.training.reading import near

Rows = tuple[tuple[int, ...], ...]
_SHOWN = 3
"""Faults of an array that its error names."""


@dataclass(frozen=True)
class Array:
    """An orthogonal array: rows of levels, each from 0 to the count of its column."""

    name: str
    rows: Rows

    @property
    def counts(self) -> tuple[int, ...]:
        """How many levels each column has."""
        return tuple(max(column) + 1 for column in zip(*self.rows, strict=True))


def faults(rows: Rows) -> Iterator[str]:
    """Yield each column, and each pair of columns, that does not hold all of its levels equally often."""
    columns = list(zip(*rows, strict=True))
    for number, column in enumerate(columns, 1):
        if set(column) != set(range(max(column) + 1)) or len(set(Counter(column).values())) > 1:
            yield f"column {number}"
    for (first, one), (second, other) in combinations(enumerate(columns, 1), 2):
        pairs = Counter(zip(one, other, strict=True))
        if len(pairs) < len(set(one)) * len(set(other)) or len(set(pairs.values())) > 1:
            yield f"columns {first} and {second}"


def verified(name: str, rows: Rows) -> Array:
    """Return the array.

    Raises:
        DiagError: it is not orthogonal; names the columns.
    """
    found = list(faults(rows))
    if found:
        more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise DiagError(
            f"the array {name} is not orthogonal: levels are not equally often in {'; '.join(found[:_SHOWN])}{more}",
            mend="name another array, or leave array out: the smallest one that fits is taken",
        )
    return Array(name, rows)


def fitted(counts: Sequence[int], name: str | None = None) -> tuple[Array, tuple[int, ...]]:
    """Return an array for factors of so many levels, by its name or else the smallest, and the column of each factor.

    Raises:
        DiagError: none fits, there is none of that name, or it is not orthogonal.
    """
    arrays = library()
    said = ", ".join(map(str, counts))
    if name is not None:
        if name not in arrays:
            raise DiagError(f"there is no array {name}", mend=near(name, tuple(arrays)))
        array = verified(name, arrays[name])
        columns = columns_for(counts, array.counts)
        if columns is None:
            has = ", ".join(f"{count} of {levels}" for levels, count in sorted(Counter(array.counts).items()))
            raise DiagError(
                f"the array {name} does not fit factors of {said} levels: it has columns with so many: {has}",
                mend="leave array out: the smallest one that fits is taken",
            )
        return array, columns
    for name, rows in sorted(arrays.items(), key=lambda item: len(item[1])):
        if not any(faults(rows)):
            columns = columns_for(counts, Array(name, rows).counts)
            if columns is not None:
                return Array(name, rows), columns
    raise DiagError(
        f"no orthogonal array has columns for factors of {said} levels",
        mend='give them 2 to 6 levels, or sampler = "random" with trials',
    )


def columns_for(counts: Sequence[int], columns: Sequence[int]) -> tuple[int, ...] | None:
    """Return for each factor the index of a column of its own; None where there are too few.

    A column whose number of levels is a multiple of the factor's will do: levels taken modulo the factor's are equally
    often, in each pair of columns, too. With any other number some would be more often than others.
    """
    free = dict(enumerate(columns))
    taken: dict[int, int] = {}
    for factor in sorted(range(len(counts)), key=lambda index: -counts[index]):
        fitting = [index for index, levels in free.items() if levels % counts[factor] == 0]
        if not fitting:
            return None
        taken[factor] = min(fitting, key=lambda index: free[index])
        del free[taken[factor]]
    return tuple(taken[factor] for factor in range(len(counts)))


@lru_cache(maxsize=1)
def library() -> dict[str, Rows]:
    """Return the arrays of pydoe as they are, by name.

    Raises:
        DiagError: pydoe is not installed.
    """
    try:
        import pydoe
    except ImportError as error:
        raise DiagError(f'sampler = "taguchi" needs pydoe ({error})', mend="pip install 'bfo-diag[sweep]'") from error
    return {
        name: tuple(tuple(map(int, row)) for row in pydoe.get_orthogonal_array(name))
        for name in pydoe.list_orthogonal_arrays()
    }
