"""One run of a sweep: its spec read, its arms checked, its study found or made, worked on, and told.

It imports no torch: what is trained is trained by its parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna

from bfo_diag import targets
from bfo_diag.attempt import TimeLimitReached
from bfo_diag.errors import DiagError
from bfo_diag.probes import Request
from bfo_diag.probes.sweep import arms, files, storage, suggestions, telling
from bfo_diag.probes.sweep.leases import held
from bfo_diag.probes.sweep.place import Place
from bfo_diag.probes.sweep.spec import Spec, read
from bfo_diag.probes.sweep.study import About, Planned, joined
from bfo_diag.probes.sweep.work import Work
from bfo_diag.records import CaseRecord, Observation, dumps, loads
from bfo_diag.shown import Progress


def conducted(
    request: Request, *, study: str | None, url: str | None, report_only: bool
) -> Iterator[Observation | Progress]:
    """Do what `bfo-diag sweep run` does, or report only."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec = read(request.text)
    yield _case(request, spec)
    raw = request.raw
    if raw is None:
        raise DiagError("a sweep wants a workspace, where it keeps its study", mend="bfo-diag sweep run SPEC")
    place = Place.found(raw.parent.parent.parent, study or spec.name, url)
    yield Observation("spec", {**arms.described(spec), "study": place.name, "storage": storage.shown(place.url)})
    with storage.errors_told(place.url):
        if report_only:
            yield from telling.told(spec, place.there(), place, raw)
        else:
            yield from _worked(request, spec, place, raw)


def _case(request: Request, spec: Spec) -> Observation:
    path = spec.file.resolve()
    identity = targets.case_id(path.name, str(path), (), request.device, spec.seeds[0])
    case = CaseRecord(identity, spec.name, request.text, "sweep", str(path), device=request.device)
    return Observation("case", case.to_json())


def _worked(request: Request, spec: Spec, place: Place, raw: Path) -> Iterator[Observation | Progress]:
    """Check all arms, then join the study, do what is to do, and tell the whole of it."""
    known = suggestions.known(spec)
    recipes = [{"label": arm.label, "tables": arms.recipe_tables(spec, arm, spec.seeds[0])} for arm in known]
    yield Progress(0, None, f"checking {len(known)} arms")
    checked = request.part("check", {"recipes": recipes, "folder": str(spec.file.resolve().parent)})
    for found in checked.of_kind("checked"):
        texts = files.texts(spec, known)
        about = About(loads(dumps(spec.to_json())), str(found["device"]), spec.file.name, texts)
        study = joined(storage.opened(place.url, place.folder), place.name, about, _planned(spec))
        files.written(texts, place.recipes)
        with held(place.folder) as worker:
            try:
                yield from Work(request, spec, place, worker, study).run()
            except TimeLimitReached:
                yield from telling.told(spec, place.there(), place, raw)
                raise
        yield from telling.told(spec, study, place, raw)


def _planned(spec: Spec) -> list[Planned]:
    """Return the arms whose levels are known, and as many as there are without theirs."""
    known = [Planned(arm.levels, *suggestions.parameters(spec, arm.levels)) for arm in arms.planned(spec)]
    return known + [Planned(None)] * (arms.number_of_arms(spec) - len(known))
