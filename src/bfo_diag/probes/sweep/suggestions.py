"""The arms that a sampler of Optuna suggests: each from a seed of its own, and what the arms before it gave.

So an arm is the same whichever process asks for it, and whenever: of `random` it depends on its number alone, of `tpe`
on its number and the arms that are done.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bfo_diag.probes.sweep import arms, designs
from bfo_diag.probes.sweep.factors import Levels, canonical
from bfo_diag.probes.sweep.spec import Spec


def suggested(spec: Spec, number: int, before: Iterable[FrozenTrial]) -> tuple[Levels, FrozenTrial]:
    """Return the levels of an arm, and the trial in which Optuna drew them; `before`: the trials that are done.

    They are put in the order of their arms, whoever did them when.
    """
    better = StudyDirection.MINIMIZE if spec.direction == "minimize" else StudyDirection.MAXIMIZE
    study = optuna.create_study(direction=better, sampler=_sampler(spec, number))
    done = [trial for trial in before if trial.state is TrialState.COMPLETE and trial.params]
    study.add_trials(sorted(done, key=lambda trial: int(trial.user_attrs["arm"])))
    drawn = study.ask()
    levels = designs.suggest(spec, drawn)
    return levels, study.trials[-1]


def known(spec: Spec) -> list[arms.Arm]:
    """Return what stands for all arms, to be checked before the first is trained.

    Of `tpe`, whose arms nobody knows yet, each pair of levels; of a range both ends.
    """
    found = list(arms.to_check(spec))
    if spec.sampler == "random":
        drawn = (suggested(spec, number, ())[0] for number in range(1, arms.number_of_arms(spec)))
        found += [arms.of_levels(spec, number, levels) for number, levels in enumerate(drawn, 1)]
    return found


def parameters(spec: Spec, levels: Levels) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Return levels that are known as Optuna's samplers would have drawn them, for whoever reads the study with it.

    What a factor's levels or range do not hold, as a control may have it, is left out.
    """
    found = _Found(spec, levels)
    designs.suggest(spec, found)
    return found.params, found.distributions


class _Found:
    """Stands in for a trial of which all is known."""

    def __init__(self, spec: Spec, levels: Levels) -> None:
        self._factors, self._levels = {factor.name: factor for factor in spec.factors}, levels
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        values = [canonical(value) for value in self._factors[name].values or ()]
        level = canonical(self._levels[name])
        if level in values:
            self._take(name, choices[values.index(level)], CategoricalDistribution(choices))
        return choices[0]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        if type(self._levels[name]) is int and low <= self._levels[name] <= high:
            self._take(name, self._levels[name], IntDistribution(low, high, log))
        return low

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        if type(self._levels[name]) in (int, float) and low <= self._levels[name] <= high:
            self._take(name, self._levels[name], FloatDistribution(low, high, log))
        return low

    def _take(self, name: str, value: Any, distribution: BaseDistribution) -> None:
        self.params[name], self.distributions[name] = value, distribution


def _sampler(spec: Spec, number: int) -> BaseSampler:
    return RandomSampler(seed=number) if spec.sampler == "random" else TPESampler(seed=number)
