"""A run that was read back and judged, wherever it lies: in a workspace's logs/, or in an unpacked package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bfo_diag import report, sources, store
from bfo_diag.attempt import attempt
from bfo_diag.errors import RecordError
from bfo_diag.probes import Probe, load_all
from bfo_diag.records import Finding, JSONValue, Run, dumps
from bfo_diag.shown import Section
from bfo_diag.sources import Source


@dataclass(frozen=True)
class Recorded:
    """A run, its probe, and where the copies of its sources are."""

    folder: Path
    source_folder: Path
    run: Run
    probe: Probe

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What the run's probe makes of it, and how it ended."""
        return report.findings(self.run, self.probe)

    @cached_property
    def summary(self) -> dict[str, JSONValue]:
        """The probe's figures."""
        return self.probe.summarise(self.run)

    @cached_property
    def sources(self) -> Mapping[str, Source]:
        """The examined files, by the names they have in the record."""
        return {source.file: source for source in sources.recorded(self.run)}

    def portable(self, file: str) -> str:
        """Return a file's name without the folders of the machine it was on: `src/...`, or from site-packages on."""
        if file in self.sources:
            return f"src/{self.sources[file].path}"
        for mark in ("/site-packages/", "/dist-packages/"):
            if mark in file:
                return file.rpartition(mark)[2]
        return file.rpartition("/")[2]

    def portable_place(self, finding: Finding) -> str:
        """Return a finding's `file:line` without the folders of its machine."""
        place = finding.place
        if place is None or place.file is None:
            return "no line" if place is None or place.parameter is None else place.parameter
        return f"{self.portable(place.file)}:{place.line}"

    def source_text(self, file: str) -> str | None:
        """Return the text of an examined file as it was when it ran."""
        source = self.sources.get(file)
        copy = None if source is None else self._copy(source)
        try:
            return None if copy is None else copy.read_text("utf-8", "replace")
        except OSError:
            return None

    def _copy(self, source: Source) -> Path | None:
        """Return where a source is kept: a plain file below the folder of the sources, and nothing else."""
        copy = (self.source_folder / source.path).resolve()
        return copy if copy.is_file() and copy.is_relative_to(self.source_folder.resolve()) else None

    def line(self, number: int) -> str:
        """Return a line of the log, by its number from 1."""
        return dumps(self.run.observations[number - 1].to_json())

    @property
    def portable_target(self) -> str | None:
        """TARGET as it is named from the folder of the packed sources."""
        target = self.run.header.case.target
        named = sources.file_part(target or "")
        if target is None or not named:
            return target
        of_target = next((source for source in self.sources.values() if source.is_target), None)
        if of_target is None or self._copy(of_target) is None:
            return None
        return of_target.path + target.removeprefix(named)

    def section(self, log_file: str) -> Section:
        """Return the run as a page shows it."""
        return report.section(self.run, self.probe, self.findings, source=self.source_text, log_file=log_file)


def read(folder: Path, *, source_folder: Path | None = None) -> Recorded:
    """Read a run.

    Raises:
        RecordError: there is none, or it was made by a probe that this version does not have.
    """
    run = store.read(folder)
    probe = load_all().get(run.header.probe)
    if probe is None:
        raise RecordError(
            f"{folder} holds a run of {run.header.probe!r}, which is no probe of this version",
            mend=f"this version has {', '.join(sorted(load_all()))}",
        )
    one = Recorded(folder, source_folder or folder / store.RAW_FOLDER / sources.FOLDER, run, probe)
    judged = attempt(lambda: (one.findings, one.summary, one.portable_target, one.section("")))
    if judged.raised is not None:
        raise RecordError(
            f"{folder} can't be judged: its lines are not what bfo-diag {probe.name} writes "
            f"({judged.raised.type}: {judged.raised.message})",
            mend="read it with the version of bfo-diag that wrote it",
            detail=judged.raised.traceback,
        )
    return one
