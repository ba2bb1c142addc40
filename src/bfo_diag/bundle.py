"""From runs to one review package: what an expert reads, checks and runs again.

The logs and sources come in redacted (`packing.py`); all else, pages and documents, is made from what was packed.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from bfo_diag import archive, documents, recorded, report, store
from bfo_diag.errors import DiagError
from bfo_diag.packing import CAP, LONGEST_NAME, Packing, redactor_for
from bfo_diag.probes import load_all
from bfo_diag.recorded import Recorded
from bfo_diag.records import SCHEMA, JSONValue, dumps
from bfo_diag.render import html
from bfo_diag.shown import Review
from bfo_diag.workspace import Workspace

_DEFAULT_QUESTIONS = {
    True: ("Is anything amiss here that these checks did not look for?",),
    False: (
        "Are the findings right, and is the mend of each the one you would make?",
        "What would you try first?",
    ),
}


@dataclass(frozen=True)
class Wanted:
    """What is to go into a package."""

    runs: tuple[Path, ...]
    name: str | None = None
    """What the package is called; None: by the start of its latest run, and what that examined."""
    questions: tuple[str, ...] = ()
    cap: int = CAP


@dataclass(frozen=True)
class Staged:
    """A package's folder before it is packed."""

    folder: Path
    name: str
    about: Mapping[str, JSONValue]
    page_text: str
    """The page, as it is in the package."""
    warnings: tuple[str, ...]

    def files(self) -> list[tuple[str, int]]:
        """Return what will be packed: each path with its bytes."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [(path.relative_to(self.folder).as_posix(), path.stat().st_size) for path in paths]


def latest(workspace: Workspace, *, target: str | None = None) -> list[Path]:
    """Return the latest run of each probe, of `target` where one is named, oldest first.

    Raises:
        DiagError: there is none.
    """
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for folder in store.runs(workspace):
        header = store.read_header(folder)
        if header is None or header.probe not in load_all():
            continue
        seen.add(header.case.target or "built-in cases")
        if target is None or header.case.target == target:
            found[header.probe] = folder
    if not found:
        what = "no runs" if target is None else f"no run of {target}"
        mend = "run bfo-diag gradients, compile or bench first, or bfo-diag review, which does all"
        if target is not None and seen:
            mend = f"there are runs of {', '.join(sorted(seen))}"
        raise DiagError(f"{workspace.logs} holds {what}", mend=mend)
    return sorted(found.values(), key=lambda folder: folder.name)


def _default_name(runs: Sequence[Recorded]) -> str:
    """Return a name that follows from the packed runs alone."""
    header = runs[-1].run.header
    stamp = header.run_id.partition("-")[0]
    return f"{stamp}-{store.slug(header.case.name)}"


@contextmanager
def staged(wanted: Wanted) -> Iterator[Staged]:
    """Make the package's files in a folder that is gone afterwards.

    Raises:
        DiagError: no run, a run that can't be read, or a name that no file may have.
    """
    with tempfile.TemporaryDirectory(prefix="bfo-diag-package-") as folder:
        yield _stage(wanted, Path(folder))


def build(wanted: Wanted, folder: Path, *, force: bool = False) -> tuple[Path, archive.Manifest, Staged]:
    """Write the package into `folder` in one step, and return where it is.

    Raises:
        DiagError: as `staged`; or there is one of that name and `force` is not given; or it can't be written.
    """
    with staged(wanted) as made:
        target = folder / f"{made.name}.tar.gz"
        if target.exists() and not force:
            raise DiagError(f"{target} exists", mend="give this one another --name, or replace it with --force")
        manifest = archive.write(made.folder, target, root=made.name, about=made.about, force=force)
        return target, manifest, made


def _stage(wanted: Wanted, folder: Path) -> Staged:
    redactor = redactor_for(list(wanted.runs), list(wanted.questions))
    packing = Packing(folder, redactor, wanted.cap)
    packed = [packing.run(run) for run in wanted.runs]
    runs = [recorded.read(run, source_folder=folder / "src") for run in packed]
    questions = tuple(redactor.text(question) for question in wanted.questions)
    shown = page(runs)
    shown = replace(shown, questions=questions or _DEFAULT_QUESTIONS[shown.clean])
    packing.write("environment.json", dumps(_environment(runs), indent=1) + "\n")
    page_text = html.page(shown)
    packing.write("report.html", page_text)
    warnings = tuple(_warnings(packing, runs))
    for path, text in documents.of(runs, shown, warnings):
        packing.write(path, text)
    about: dict[str, JSONValue] = {
        "tool": {"name": "bfo-diag", "version": metadata.version("bfo-diag")},
        "runs": [
            {
                "run_id": one.run.header.run_id,
                "folder": f"logs/{one.folder.name}",
                "probe": one.probe.name,
                "outcome": one.run.outcome.value,
                "target": one.run.header.case.target,
            }
            for one in runs
        ],
        "questions": list(shown.questions),
        "redacted": dict(sorted(redactor.counts.items())),
        "truncated": packing.truncated,
        "left_out": packing.left_out,
        "warnings": list(warnings),
    }
    return Staged(folder, wanted.name or _default_name(runs), about, page_text, warnings)


def page(runs: Sequence[Recorded]) -> Review:
    """Return what a page shows of these runs, and which probes were not run."""
    sections = [one.section(f"logs/{one.folder.name}/{store.OBSERVATIONS_FILE}") for one in runs]
    made = {one.probe.name for one in runs}
    return report.review(
        sections,
        title=f"Review of {', '.join(dict.fromkeys(section.target for section in sections))}",
        environment=_environment(runs),
        missing=[
            (name, f"not measured: there is no run of bfo-diag {name}")
            for name, probe in load_all().items()
            if name not in made and probe.file_target is None  # (of a recipe, there is nothing to miss)
        ],
    )


def document(runs: Sequence[Recorded]) -> dict[str, JSONValue]:
    """Return the `--json` documents of these runs as one."""
    return {
        "schema": SCHEMA,
        "runs": [report.document(one.run, one.probe, one.findings) for one in runs],
    }


def checked_name(name: str) -> str:
    """Return the name where a package can have it.

    Raises:
        DiagError: it is no plain file name.
    """
    if len(name) > LONGEST_NAME or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is None:
        raise DiagError(
            f"--name {name!r} can't name a package",
            mend=f"use up to {LONGEST_NAME} letters, digits, dots, dashes and underscores",
        )
    return name.removesuffix(".tar.gz")


def _environment(runs: Sequence[Recorded]) -> dict[str, JSONValue]:
    """Return the environment of the latest run, and what was another in an earlier one."""
    environment = dict(runs[-1].run.header.environment)
    others = {
        one.run.header.run_id: {
            key: value for key, value in one.run.header.environment.items() if environment.get(key) != value
        }
        for one in runs[:-1]
    }
    differing = {run_id: values for run_id, values in others.items() if values}
    return {**environment, **({"otherwise": differing} if differing else {})}


def _warnings(packing: Packing, runs: Sequence[Recorded]) -> Iterator[str]:
    targets = list(dict.fromkeys(one.run.header.case.target or "the built-in cases" for one in runs))
    if len(targets) > 1:
        yield f"the runs are of different targets: {', '.join(targets)}; --case picks those of one"
    for path in dict.fromkeys(packing.changed):
        yield f"{path} differs between the runs (edited, or another file of that name); the last is packed"
    for cut in packing.truncated:
        yield f"{cut['path']} had {cut['bytes']} bytes; its beginning and end are packed, {cut['cap']} bytes"
    for left in packing.left_out:
        yield f"{left['path']} was left out: {left['why']}"
    for one in runs:
        if one.portable_target is None and one.run.header.case.target is not None:
            yield f"{one.run.header.run_id}: the source of its target was not kept, so it can't be replayed"
