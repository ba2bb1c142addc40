"""The catalogue: what each code means, why it happens and how to mend it. One module here for each probe.

A module without `ENTRIES` is an error. Messages about one run are put together in the probe's `judge`.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import lru_cache

from bfo_diag.records import Finding, Place, Severity


@dataclass(frozen=True)
class Entry:
    """One code: `why` is true of every case of it, `fix` may name `{op}` and other facts of the case."""

    code: str
    severity: Severity
    why: str
    fix: str
    url: str = ""
    of_the_machine: bool = False
    """Whether it tells of the machine of the moment (that it was busy), so that a replay need not show it again."""

    def finding(
        self,
        message: str,
        *,
        place: Place | None = None,
        evidence: tuple[int, ...] = (),
        severity: Severity | None = None,
        fix: str | None = None,
    ) -> Finding:
        """Return a finding of this code about one run."""
        return Finding(
            code=self.code,
            severity=severity or self.severity,
            message=message,
            fix=self.fix if fix is None else fix,
            url=self.url,
            place=place,
            evidence=evidence,
        )


@lru_cache(maxsize=1)
def catalogue() -> dict[str, Entry]:
    """Return every entry by its code.

    Raises:
        TypeError: a module without `ENTRIES`, or a code defined twice.
    """
    found: dict[str, Entry] = {}
    for module in pkgutil.iter_modules(__path__):
        entries = getattr(importlib.import_module(f"{__name__}.{module.name}"), "ENTRIES", None)
        if entries is None:
            raise TypeError(f"{__name__}.{module.name} defines no ENTRIES")
        for entry in entries:
            if entry.code in found:
                raise TypeError(f"{__name__}.{module.name}: the code {entry.code} is there twice")
            found[entry.code] = entry
    return found
