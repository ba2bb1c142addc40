"""The steps of `HybridBFO` that are no generation: the run goes on, or the colony looks for a place to run from.

Here is the order of calls, and what is kept; the run itself is in `runs`, the decision between the two in `search`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from pytorch_bfo_optimizer import foraging, runs
from pytorch_bfo_optimizer.gradient_modes import DualClosure
from pytorch_bfo_optimizer.gradient_source import GradientSource, HybridHyperparameters
from pytorch_bfo_optimizer.objective import Closure
from pytorch_bfo_optimizer.runs import Run
from pytorch_bfo_optimizer.search import Phase, Search
from pytorch_bfo_optimizer.state import Colony, Hyperparameters, StepRecord

FIRST_HOP = 2.0
"""Length of the first hop, in units of the distance that the first run has come."""

LONGEST = 1e30
"""Most that a length grows to, in units of lr C: where nothing holds a run back it would leave every dtype."""

_NUMBERS = {item.name: f"run_{item.name}" for item in fields(Search)}
"""Fields of `Search`, and their names in the state of the first parameter."""

_WORDS = {Phase.HUNGRY: "forage", Phase.STRAYS: "stray"}
"""What a `StepRecord` calls a step that is not the leading run's."""


@dataclass
class Step:
    """What a step has come to so far; nothing of it is kept before it has succeeded."""

    run: Run
    search: Search
    measured: list[tuple[Tensor, float]] = field(default_factory=list)
    """Places of the run (D,), and their losses."""
    record: tuple[Tensor, float] | None = None
    """A new best position (D,), and its loss."""
    colony: Colony | None = None
    """The colony, where its members moved."""
    held: Tensor | None = None
    """What the parameters hold (D,), dtype of the vector."""
    pieces: list[Tensor] = field(default_factory=list)
    """The same in pieces."""
    nonfinite: int = 0
    """Losses that were not finite."""
    improved: bool = False
    """Whether a loss was below the best one."""
    phase: str = "run"
    """What its record calls it."""
    moved: float | None = None
    """How far its last move, or its hops, were meant to go, in units of the parameters of the first group."""
    blocked: bool = False
    """Whether the leading run leads no further by itself: a generation has to help."""


class RunningBFO(GradientSource):
    """`BFO` that can make the steps of a `Search`; `_blocked` is left where one needs a generation."""

    _blocked: Step | None
    _held: tuple[Tensor, list[Tensor]] | None
    """What the parameters were left with, and its pieces."""
    _rest: tuple[Tensor, float] | None = None
    """What the first parameter keeps of the members' positions, and their diversity."""

    def _search_on(self, closure: Closure, groups: list[Hyperparameters]) -> float | None:
        """Make a step and keep what came of it; None where the run is `_blocked`, and the step has not happened."""
        vector, grad_enabled, before = self.vector, torch.is_grad_enabled(), self.evaluations
        with torch.no_grad():
            here_D, random_before = self._here(), None
            try:
                step = self._step_from(here_D, groups)
                if step.search.phase == Phase.HUNGRY:
                    random_before = self.generator.get_state()
                    self._hop(step, closure, groups, grad_enabled)
                else:
                    self._run_on(step, closure, groups, grad_enabled)
            except BaseException:
                vector.write_(here_D)
                if random_before is not None:
                    self.generator.set_state(random_before)
                self._settle()
                raise
            if step.blocked:
                vector.write_(here_D)
                self._blocked = step
                return None
            self._settle()
            best_loss = self._keep_step(step)
        if self.on_step:
            self._report(step, self.evaluations - before, best_loss)
        return best_loss

    def _here(self) -> Tensor:
        """What the parameters hold (D,): the very tensor that was written, if they are unchanged."""
        vector, written_D = self._vector or self.vector, self._written_D
        if written_D is None or vector.mixed:
            here_D = vector.read()
            return here_D if written_D is None or not torch.equal(here_D, written_D) else written_D
        if self._held is None or self._held[0] is not written_D:
            self._held = written_D, vector.split(written_D)
        unchanged = all(map(torch.equal, vector.params, self._held[1]))  # without a copy of the parameters
        return written_D if unchanged else vector.read()

    def _step_from(self, here_D: Tensor, groups: list[Hyperparameters]) -> Step:
        """A step from where the run stands: at the parameters if they were changed from outside, in the bounds."""
        (run, search), space = self._kept_search(), self._space(groups)
        if self._written_D is not None and here_D is not self._written_D:
            run = replace(run, position=here_D.to(run.position.dtype))
            if search.phase != Phase.LEADS:
                search.restart()
        if space.bounded:
            inside_D = space.clamp(run.position)
            if not torch.equal(inside_D, run.position):
                run = replace(run, position=inside_D)
                search.restart()
        return Step(run, search, phase=_WORDS.get(search.phase, "run"))

    # --- a run ---

    def _run_on(self, step: Step, closure: Closure, groups: list[Hyperparameters], grad_enabled: bool) -> None:
        """Feel the slope if it is not known where the run stands, move, and feel it there."""
        search, space = step.search, self._space(groups)
        if search.phase == Phase.RECALLED:
            step.run = Run.at(space.clamp(self._best()))
            search.recall()
        if not search.felt:
            self._arrive(step, step.run.position, closure, groups, grad_enabled)
            if step.search.felt == 0 or step.search.phase == Phase.HUNGRY or self._generation_cost() == 1:
                return
        step.moved = search.length * groups[0].lr * groups[0].step_size_max
        place_D = step.run.move(search.length * self._reach(groups))
        if space.bounded:
            place_D = space.clamp(place_D)
        self._arrive(step, place_D, closure, groups, grad_enabled)

    def _arrive(
        self, step: Step, place_D: Tensor, closure: Closure, groups: list[Hyperparameters], grad_enabled: bool
    ) -> None:
        """Take up what is found where the run moves to, or where it stands; or that it leads no further."""
        search, hyper = step.search, groups[0]
        assert isinstance(hyper, HybridHyperparameters)
        stands = place_D is step.run.position
        held_D = self._hold(step, place_D)
        found = self._measure(held_D, closure, grad_enabled, trusted=search.trusted, strict=stands)
        search.trusted = found.trusted
        if found.loss is not None:
            step.measured.append((place_D, found.loss))
            step.nonfinite += not math.isfinite(found.loss)
        if found.gradient is not None and found.loss is not None and math.isfinite(found.loss):
            run, cosine, slope = runs.arrive(step.run, place_D, found.gradient, momentum=hyper.beta)
            if math.isfinite(slope):
                step.run, search.felt = run, 1
                search.length = min(search.length * runs.quickening(cosine, search.age), LONGEST)
                self._note(step, place_D, found.loss, still=slope == 0, believed=not hyper.reevaluate)
                return
        search.length /= 2
        if search.phase != Phase.LEADS:
            search.give_up()
        else:  # members stand at what this step has measured: one is too few for two places, ranks send one loss
            step.blocked = stands or (hyper.population_size > 1 and self._shard is None)

    def _note(self, step: Step, place_D: Tensor, loss: float, *, still: bool, believed: bool) -> None:
        """Let the search know a loss of the run, and keep the place if it is the record."""
        recorded = step.search.note(loss, still=still)
        best_loss = step.record[1] if step.record is not None else float(self._kept_state()["best_loss"])
        step.improved = step.improved or loss < best_loss
        if loss < best_loss if believed else recorded:
            step.record = place_D, loss

    # --- a place to run from ---

    def _hop(self, step: Step, closure: Closure, groups: list[Hyperparameters], grad_enabled: bool) -> None:
        """Evaluate P places a hop away from the record; a run will begin at the best of them."""
        space, search, stored = self._space(groups), step.search, self._stored()
        reach, (lower, upper) = self._reach(groups), space.bounds
        if search.hop == 0:  # nobody has hopped yet: the best member still stands where the run began
            came_D = stored.best - stored.position[torch.argmin(stored.loss)]
            hop = FIRST_HOP * float(torch.linalg.vector_norm(came_D / reach))
            search.hop = hop if 0 < hop < math.inf else 1.0
        search.hop = min(search.hop, float(torch.linalg.vector_norm((upper - lower) / reach)), LONGEST)
        step.moved = search.hop * groups[0].lr * groups[0].step_size_max
        hops_PD = search.hop * reach * foraging.tumble(space.normal(stored.best.shape[0]))
        places_PD = space.clamp((stored.best + hops_PD).to(stored.best.dtype))
        evaluator = self._evaluator(self._evaluated(closure), mode_of(closure, grad_enabled))
        try:
            loss_P = evaluator(places_PD, torch.ones_like(stored.known))
        finally:
            self._owed += evaluator.evaluations
        loss_P = torch.where(torch.isfinite(loss_P), loss_P, math.inf)
        step.nonfinite = int(torch.isinf(loss_P).sum())
        step.colony = replace(stored, position=places_PD, loss=loss_P, known=torch.ones_like(stored.known))
        found = int(torch.argmin(loss_P))
        loss = float(loss_P[found])
        if not math.isfinite(loss):
            search.give_up()
            return
        step.run = Run.at(places_PD[found])
        search.stray()
        step.improved = loss < float(stored.best_loss)
        if step.improved and not groups[0].reevaluate:
            step.record = places_PD[found], loss

    # --- what is kept ---

    def _keep_step(self, step: Step) -> float:
        """Put what a step has come to into the state, and the best place into the parameters; its loss."""
        kept, vector = self._kept_state(), self._vector or self.vector
        if step.colony is not None:
            self._keep(step.colony)
        if step.record is None:
            self._hold(step, self._best())
        else:
            if not step.measured or step.measured[-1][0] is not step.record[0]:
                self._hold(step, step.record[0])
            for param, piece in zip(vector.params, step.pieces, strict=True):
                self.state[param]["best"] = piece
            kept["best_loss"] = torch.full_like(kept["best_loss"], step.record[1])
        kept.update(state_of(step.run, step.search))
        self._bump("generation", 1)
        self._bump("nonfinite_evaluations", step.nonfinite)
        assert step.held is not None
        self._written_D, self._held = step.held, (step.held, step.pieces)
        return float(kept["best_loss"])

    def _hold(self, step: Step, place_D: Tensor) -> Tensor:
        """Let the parameters be at a place (D,); that place in the dtype of the vector."""
        vector = self._vector or self.vector
        held_D = place_D.to(vector.dtype)
        step.pieces = vector.split(held_D)
        for param, piece in zip(vector.params, step.pieces, strict=True):
            param.copy_(piece)
        step.held = vector.read() if vector.mixed else held_D
        return held_D

    def _report(self, step: Step, evaluations: int, best_loss: float) -> None:
        if step.colony is not None:
            losses = step.colony.loss
            loss = float(losses.min())
        else:
            losses, loss = None, step.measured[-1][1] if step.measured else math.inf
        counted = self._kept_state()
        record = StepRecord(
            generation=counted["generation"],
            phase=step.phase,
            evaluations=evaluations,
            evaluations_total=counted["evaluations"],
            loss=loss if math.isfinite(loss) else math.inf,
            best_loss=best_loss,
            losses=losses,
            nonfinite=step.nonfinite,
            nonfinite_total=counted["nonfinite_evaluations"],
            improved=int(step.improved),
            diversity=self._diversity_at_rest(counted["position"]),
            step_size=step.moved,
            reproduced=False,
            dispersed=0 if step.colony is None else step.colony.loss.shape[0],
            used_gradient=step.colony is None,
        )
        self._tell(record)

    def _diversity_at_rest(self, position: Tensor) -> float:
        """That of the members, without the run; computed anew only where they have moved, so that a run is not slowed.

        Args:
            position: what the first parameter keeps of theirs (P, *shape); another tensor wherever they have moved.
        """
        if self._rest is None or self._rest[0] is not position:
            self._rest = position, float(foraging.diversity(self._stored().position))
        return self._rest[1]

    def _kept_search(self) -> tuple[Run, Search]:
        kept = self._kept_state()
        run = Run(kept["run"], kept["momentum"], kept["square"], kept["run_scale"])
        return run, Search(**{name: kept[key] for name, key in _NUMBERS.items()})

    def _best(self) -> Tensor:
        """The best position (D,)."""
        vector = self._vector or self.vector
        return vector.merge([self.state[param]["best"] for param in vector.params])

    def _reach(self, groups: list[Hyperparameters]) -> Tensor:
        """The factors lr C (1,) or (D,), in units of the parameters."""
        return self._space(groups).per_coordinate([hyper.lr * hyper.step_size_max for hyper in groups])

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `BFO`; what is left of the last step stays behind."""
        self.__dict__.update(_blocked=None, _held=None, _rest=None, _owed=0)
        super().__setstate__(state)


def state_of(run: Run, search: Search) -> dict[str, Any]:
    """The run and the search as tensors and plain numbers, by the names that they are kept under."""
    return {
        **{key: getattr(search, name) for name, key in _NUMBERS.items()},
        "run": run.position,
        "momentum": run.momentum,
        "square": run.square,
        "run_scale": run.scale,
    }


def mode_of(closure: Closure, grad_enabled: bool) -> bool:
    """The grad mode in which a closure is evaluated: the caller's, but for the first of two."""
    return grad_enabled and not isinstance(closure, DualClosure)
