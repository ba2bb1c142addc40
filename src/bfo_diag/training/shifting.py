"""A shift of the data, A -> B -> A: what is forgotten of A, how well B is learned, and how soon A is back.

A is the data as they are. Which B is, is the same for every seed, so that trainings can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from bfo_diag.records import Observation
from bfo_diag.training import data
from bfo_diag.training.data import Samples
from bfo_diag.training.fold import Fold
from bfo_diag.training.recipe import Recipe
from bfo_diag.training.step import Step

KINDS = ("shift", "shift_summary")
_PHASES = ("A", "B", "A")
_PERMUTATION_SEED = 0


def shifted(samples: Samples, kind: str) -> Samples:
    """Return B: other inputs and targets in the same shapes, as easy to learn for a net that knows nothing."""
    if kind == "labels":
        return replace(samples, targets=(samples.targets + 1) % samples.classes)
    generator = torch.Generator().manual_seed(_PERMUTATION_SEED)
    device = samples.inputs.device
    if samples.inputs.is_floating_point():
        pixels = torch.randperm(samples.inputs.shape[1], generator=generator).to(device)
        return replace(samples, inputs=samples.inputs[:, pixels])
    codes = torch.randperm(samples.classes, generator=generator).to(device)
    return replace(samples, inputs=codes[samples.inputs], targets=codes[samples.targets])


@dataclass
class Seen:
    """What was measured so far, all of it in a checkpoint. Losses are of the part that is held back, in nats."""

    step: int = 0
    """At which the present phase began."""
    a_learned: float | None = None
    """On A, after the first phase."""
    a_after_b: float | None = None
    b_learned: float | None = None
    """On B, after the second phase."""
    b_fresh: float | None = None
    """On B, of a net that learned nothing else."""
    a_at_end: float | None = None
    reconsolidation_steps: int | None = None
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    """State of the generator that shuffles, when the second phase began."""


class Shifting:
    """Says which data an epoch learns from, and measures on both. There is one fold."""

    def __init__(self, recipe: Recipe, samples: Samples, split: tuple[Tensor, Tensor], order: torch.Generator) -> None:
        """Take A, the indices that are trained on and those held back, and the source of all shuffling."""
        self._asked, self._seed, self._size = recipe.shift, recipe.seed, recipe.data.batch_size
        self._samples = {"A": samples, "B": shifted(samples, str(self._asked.kind))}
        self._train, self._held = split
        self._order = order
        self._ends = list(accumulate(self._asked.epochs or ()))
        """The last epoch of each phase."""
        self.seen = Seen()

    def begin_epoch(self, fold: Fold, step: Step) -> Samples:
        """Return what an epoch learns from."""
        phase = self._phase(fold)
        if fold.epoch == 1 or fold.epoch - 1 in self._ends:
            self.seen.step = fold.step
            if phase == 2:
                self.seen.order = self._order.get_state()
            self.after_step(fold, step)  # (it may have forgotten nothing)
        return self._samples[_PHASES[phase - 1]]

    def after_step(self, fold: Fold, step: Step) -> None:
        """Look, every so many steps of the third phase, whether A is known as well as before B."""
        seen, since = self.seen, fold.step - self.seen.step
        if self._phase(fold) < 3 or since % self._asked.check_every or seen.reconsolidation_steps is not None:
            return
        if seen.a_learned is not None and self._evaluate(step, "A")[0] <= seen.a_learned:
            seen.reconsolidation_steps = since

    def after_epoch(self, fold: Fold, step: Step, on_a: tuple[float, float], fresh: Callable[[], Step]) -> Observation:
        """Measure on B; at the end of the second phase a `fresh` net learns B alone, in the same order.

        `on_a` is the loss on A, and the share of its targets that was guessed right.
        """
        on_b, seen, phase = self._evaluate(step, "B"), self.seen, self._phase(fold)
        if fold.epoch == self._ends[0]:
            seen.a_learned = on_a[0]
        elif fold.epoch == self._ends[1]:
            seen.a_after_b, seen.b_learned = on_a[0], on_b[0]
            seen.b_fresh = self._of_a_fresh_net(fresh)
        elif fold.epoch == self._ends[2]:
            seen.a_at_end = on_a[0]
        values = {
            "fold": fold.number,
            "phase": phase,
            "data": _PHASES[phase - 1],
            "epoch": fold.epoch,
            "steps": fold.step,
            "val_loss_a": on_a[0],
            "val_accuracy_a": on_a[1],
            "val_loss_b": on_b[0],
            "val_accuracy_b": on_b[1],
        }
        return Observation(KINDS[0], values)

    def _of_a_fresh_net(self, fresh: Callable[[], Step]) -> float:
        """Return the loss on B of a net with the same first weights and batches; random numbers are as before."""
        order = torch.Generator()
        order.set_state(self.seen.order)
        device = self._samples["B"].inputs.device
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
            torch.manual_seed(self._seed)
            step = fresh()
            for _ in range(self._ends[1] - self._ends[0]):
                for batch in data.shuffled(self._train, self._size, order):
                    step(*self._samples["B"].at(batch))
            return self._evaluate(step, "B")[0]

    def _phase(self, fold: Fold) -> int:
        """Return in which phase an epoch is, from 1."""
        return 1 + sum(fold.epoch > end for end in self._ends[:-1])

    def _evaluate(self, step: Step, of: str) -> tuple[float, float]:
        return step.evaluate(self._samples[of].batches(self._held, self._size))

    def summary(self) -> Observation:
        """Return what the shift did to the training; None where it did not come so far."""
        seen = self.seen
        values = {
            "fold": 1,
            "kind": self._asked.kind,
            "epochs": list(self._asked.epochs or ()),
            "check_every": self._asked.check_every,
            "forgetting": _difference(seen.a_after_b, seen.a_learned),
            "plasticity": _difference(seen.b_learned, seen.b_fresh),
            **{name: value for name, value in vars(seen).items() if name not in ("order", "step")},
        }
        return Observation(KINDS[1], values)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return dict(vars(self.seen))

    def load(self, state: Mapping[str, Any]) -> None:
        """Come back to a checkpoint."""
        self.seen = Seen(**state)


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
