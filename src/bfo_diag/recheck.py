"""What the tests inside a package call: its recorded runs made again, and the comparison as failures."""

from __future__ import annotations

import sys
import unittest
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from bfo_diag import difference, opening, replay
from bfo_diag.errors import DiagError, ExitCode


class Recheck:
    """The checks of an unpacked package, as its tests call them: the recorded run of a probe, made again once."""

    def __init__(self, package: Path, probe: str) -> None:
        self._package = package
        self._probe = probe

    @cached_property
    def _differences(self) -> list[difference.Difference]:
        runs = [one for one in opening.runs_in(self._package) if one.probe.name == self._probe]
        commands = replay.plan(runs)
        possible = [command for command in commands if not command.why_not]
        if not possible:
            why = "; ".join(command.why_not for command in commands) or f"no run of bfo-diag {self._probe} is packed"
            raise unittest.SkipTest(f"not measured: {why}")  # (pytest takes it as a skip, too)
        return [replay.compare(command, self._package / "src") for command in possible]

    def ends_as_recorded(self) -> None:
        """Fail where the run ends another way than it did."""
        for one in self._differences:
            before, after = one.outcomes
            if before != after:  # (no assert: python -O would pass it by)
                raise AssertionError(f"{one.title} ended {after}; recorded: {before}")

    def finds_all_again(self) -> None:
        """Fail where a recorded finding is gone or changed."""
        self._none_is(difference.GONE, difference.CHANGED)

    def finds_nothing_new(self) -> None:
        """Fail where there is a finding that was not recorded."""
        self._none_is(difference.NEW)

    def _none_is(self, *statuses: str) -> None:
        said = [
            f"{compared.status}: {compared.finding.code} {compared.finding.place or ''} "
            f"{compared.what or compared.finding.message}"
            for one in self._differences
            for compared in one.compared
            if compared.counts and compared.status in statuses
        ]
        if said:
            raise AssertionError("\n".join(said))

    def main(self, write: Callable[[str], object] = sys.stdout.write) -> int:
        """Run all checks without pytest, say what came of each, and return the exit status."""
        failed = False
        for check in (self.ends_as_recorded, self.finds_all_again, self.finds_nothing_new):
            name = check.__name__.replace("_", " ")
            try:
                check()
                write(f"ok      {self._probe}: {name}\n")
            except unittest.SkipTest as why:
                write(f"skipped {self._probe}: {why}\n")
                return int(ExitCode.CLEAN)
            except DiagError as error:
                write(f"FAILED  {self._probe}: {error.message}\n{error.detail}\n")
                return int(error.exit_code)
            except AssertionError as error:
                failed = True
                write(f"FAILED  {self._probe}: {name}\n{error}\n")
        return int(ExitCode.FINDING if failed else ExitCode.CLEAN)
