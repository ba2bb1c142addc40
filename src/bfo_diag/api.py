"""A probe from Python, in this process: `examine("compile", step)` returns the run and its findings.

Torch's state of the process is as it was afterwards. What the command line does in processes of its own happens here,
one after the other: a target that kills its process kills this one, and there is no time limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bfo_diag import environment, report, store, targets
from bfo_diag.errors import DiagError
from bfo_diag.parts import STOPS
from bfo_diag.probes import PartResult, Probe, load_all
from bfo_diag.records import CaseRecord, Finding, JSONValue, Observation, Outcome, Run, RunHeader
from bfo_diag.shown import Report
from bfo_diag.torch_state import as_it_was


@dataclass(frozen=True)
class Examination:
    """A run with what the probe makes of it."""

    run: Run
    findings: tuple[Finding, ...]
    report: Report
    summary: dict[str, JSONValue]


def examine(
    probe: str,
    target: str | Callable[..., Any] | None,
    *,
    inputs: tuple[str, ...] = (),
    device: str = "cpu",
    seed: int = 0,
    **options: Any,
) -> Examination:
    """Run a probe (`gradients`, `compile`) on a target in this process.

    Args:
        probe: the name of the probe, as on the command line.
        target: TARGET as on the command line, or the step, factory, module or optimizer class itself.
        inputs: random inputs of a module, such as `"float32[32,64]"`.
        device: cpu, cuda or cuda:N.
        seed: of torch's random numbers while the target runs.
        options: those of the probe, as keywords.

    Raises:
        DiagError: no such probe or option value, or the target can't be examined.
    """
    known = load_all()
    if probe not in known:
        raise DiagError(f"there is no probe {probe!r}", mend=f"choose from {', '.join(sorted(known))}")
    chosen = known[probe]
    if chosen.needs_processes:
        raise DiagError(
            f"{probe} measures in fresh processes, and not in this one", mend=f"bfo-diag {probe} TARGET, or runner.run"
        )
    device = targets.resolve_device(device)
    request = _Request(chosen, target, inputs, device, seed)
    name = target if isinstance(target, str) else getattr(target, "__name__", "builtin")
    header = RunHeader(
        run_id=f"{store.utc_now():%Y%m%dT%H%M%SZ}-{probe}",
        probe=probe,
        argv=(),
        started_utc=store.utc_now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        case=CaseRecord(id="", name=name, inputs=inputs, device=device, seed=seed),
        environment={**environment.versions(), **environment.devices()},
        options=options,
    )
    with as_it_was():
        for said in chosen.capture(request, **options):
            if isinstance(said, Observation):
                request.write(said)
    seen = tuple(request.written)
    kinds = {observation.kind for observation in seen}
    for observation in seen:
        if observation.kind == "case":
            header = replace(header, case=CaseRecord.from_json(dict(observation.values)))
    run = Run(header, seen, Outcome.CRASHED if kinds & {"raised", "refused"} else Outcome.COMPLETE)
    found = report.findings(run, chosen)
    return Examination(run, found, report.build(run, chosen, found), chosen.summarise(run))


class _Request:
    """A `probes.Request` whose parts run here."""

    raw = None

    def __init__(
        self,
        probe: Probe,
        target: str | Callable[..., Any] | None,
        inputs: tuple[str, ...],
        device: str,
        seed: int,
    ) -> None:
        self._probe = probe
        self._value = None if isinstance(target, str) else target
        self.text = target if isinstance(target, str) else None if target is None else "<python>"
        self.inputs, self.device, self.seed = inputs, device, seed
        self.written: list[Observation] = []

    def write(self, observation: Observation) -> None:
        """Put an observation on record, in the form that a log gives back."""
        self.written.append(Observation.from_json(observation.to_json()))

    def load(self) -> targets.Target:
        """Import the target, or take the object that was given."""
        how: dict[str, Any] = {"inputs": self.inputs, "device": self.device, "seed": self.seed}
        if self._value is not None:
            return targets.of_value(self._value, **how)
        if self.text is None:
            raise DiagError("there is no TARGET")
        return targets.load(self.text, **how)

    def part(
        self,
        name: str,
        options: Mapping[str, JSONValue],
        *,
        case: str = "",
        target: str | None = None,
        environment: Mapping[str, str] | None = None,
        must_end: bool = True,
    ) -> PartResult:
        """Do a part here and now."""
        labels = {"part": name, **({"case": case} if case else {})}
        inner = self if target is None else _Request(self._probe, target, self.inputs, self.device, self.seed)
        began = len(self.written)
        with as_it_was():
            for said in self._probe.parts[name](inner, **options):
                if isinstance(said, Observation):
                    self.write(replace(said, values={**said.values, **labels}))
        seen = tuple(self.written[began:])
        return PartResult(seen, stopped=bool({o.kind for o in seen} & STOPS))
