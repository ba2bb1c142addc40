"""The arms of one sweep in an Optuna study, which many processes may work on: which are done, free, or lost.

One Optuna trial is one arm; the results of its seeds are among its user attributes. What a process may do at any
moment, be killed included, leaves the study such that the next one goes on from it:

- An arm that has to be done again (its worker was killed, or gave it back) is another Optuna trial, which names the one
  before in `again`. It counts as soon as that one has failed with its number in `superseded_by`; and since a trial that
  has failed never changes, exactly one of several that were made at the same moment counts.
- Of several first trials of an arm, made by processes that began at the same moment, the first counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from bfo_diag.errors import DiagError
from bfo_diag.probes.sweep.factors import Levels
from bfo_diag.probes.sweep.leases import Worker, lost
from bfo_diag.records import JSONValue, decode, encode
from bfo_diag.training.recipe import differences

_ABOUT, _ENQUEUED = "bfo_diag", "enqueued"
_ARM, _LEVELS, _WORKER, _HEARTBEAT, _WHY = "arm", "levels", "worker", "heartbeat", "why"
_AGAIN, _SUPERSEDED = "again", "superseded_by"
_SEED = "seed-"
_POLL_S = 0.2
_PATIENCE_S = 10.0
"""How long a study may stand still, not yet filled, before another process fills it."""
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
Results = Mapping[int, Mapping[str, JSONValue]]
"""What each seed that is done gave."""


class TakenOverError(Exception):
    """Another process took the arm for lost, and does it now: this one has to leave it."""


@dataclass(frozen=True)
class About:
    """What a study is of: whoever works on it has to mean the same."""

    spec: Mapping[str, JSONValue]
    device: str
    file: str
    """The name of the spec among `files`."""
    files: Mapping[str, str]
    """The text of the spec's file, and of those that its models' factories are in."""

    @property
    def direction(self) -> StudyDirection:
        """Which values of its metric are better."""
        return StudyDirection.MINIMIZE if self.spec["metric"] == "val_loss" else StudyDirection.MAXIMIZE

    def differs(self, other: About) -> Iterator[str]:
        """Yield in words what of `other` is something else."""
        yield from differences({**self.spec, "device": self.device}, {**other.spec, "device": other.device})
        for name in sorted({*self.files, *other.files} - {self.file, other.file}):
            if self.files.get(name) != other.files.get(name):
                yield f"the source of {name} is another"


@dataclass(frozen=True)
class Planned:
    """An arm to be done; `levels` is None where a sampler is to choose them."""

    levels: Levels | None
    params: Mapping[str, Any] = field(default_factory=dict)
    """The levels as Optuna has them, with `distributions`."""
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)

    def waiting(self, arm: int) -> FrozenTrial:
        """Return the trial of the arm with this number."""
        chosen = {} if self.levels is None else {_LEVELS: encode(self.levels)}
        return create_trial(
            state=TrialState.WAITING,
            params=dict(self.params),
            distributions=dict(self.distributions),
            user_attrs={_ARM: arm, **chosen},
        )


@dataclass(frozen=True)
class State:
    """How far an arm is; `levels` is None while no sampler has chosen them."""

    arm: int
    number: int
    """Of its Optuna trial."""
    state: str
    levels: Levels | None
    results: Results
    why: str
    trial: FrozenTrial = field(repr=False)


class Study:
    """A study that is there."""

    def __init__(self, storage: BaseStorage, name: str) -> None:
        """Find it.

        Raises:
            KeyError: there is none of this name.
        """
        self.name = name
        self._storage = storage
        self._id = storage.get_study_id_from_name(name)

    @property
    def about(self) -> About | None:
        """What it is of; None where nobody has said so (yet)."""
        said = self._storage.get_study_user_attrs(self._id).get(_ABOUT)
        return None if said is None else About(**decode(said))

    @property
    def filled(self) -> bool:
        """Whether all its arms are in it."""
        return _ENQUEUED in self._storage.get_study_user_attrs(self._id)

    def arms(self) -> list[State]:
        """Return how far each arm is, in the order of their numbers."""
        return [_state(trial) for _, trial in sorted(_current(self._trials()).items())]

    def fill(self, about: About, arms: Sequence[Planned]) -> None:
        """Put these arms into it, those that are not there yet, and say that they are."""
        self._storage.set_study_user_attr(self._id, _ABOUT, encode(vars(about)))
        there = _current(self._trials())
        for number, arm in enumerate(arms):
            if number not in there:
                self._storage.create_new_trial(self._id, template_trial=arm.waiting(number))
        self._storage.set_study_user_attr(self._id, _ENQUEUED, len(arms))
        self._tidy()

    def claim(self, worker: Worker) -> State | None:
        """Take the first arm that nobody has, None where there is none; of two that try, one gets it."""
        for waiting in self.arms():
            if waiting.state != "waiting":
                continue
            with suppress(UpdateFinishedTrialError):
                if self._storage.set_trial_state_values(self._trial_id(waiting), TrialState.RUNNING):
                    self._storage.set_trial_user_attr(self._trial_id(waiting), _WORKER, worker.to_json())
                    return waiting
        return None

    def choose(self, arm: State, levels: Levels, drawn: FrozenTrial) -> None:
        """Put down the levels of an arm, and the parameters that Optuna drew them as.

        Raises:
            TakenOverError: the arm is another's by now.
        """
        with _while_it_is_mine():
            for name, distribution in drawn.distributions.items():
                value = distribution.to_internal_repr(drawn.params[name])
                self._storage.set_trial_param(self._trial_id(arm), name, value, distribution)
            self._storage.set_trial_user_attr(self._trial_id(arm), _LEVELS, encode(levels))

    def beat(self, arm: State) -> bool:
        """Say that the worker of an arm lives, and return whether the arm is still its own."""
        try:
            self._storage.set_trial_user_attr(self._trial_id(arm), _HEARTBEAT, time.time())
        except UpdateFinishedTrialError:
            return False
        return True

    def keep(self, arm: State, seed: int, values: Mapping[str, JSONValue]) -> None:
        """Put down what a seed gave.

        Raises:
            TakenOverError: the arm is another's by now.
        """
        with _while_it_is_mine():
            self._storage.set_trial_user_attr(self._trial_id(arm), f"{_SEED}{seed}", encode(values))

    def finish(self, arm: State, state: str, *, value: float | None = None, why: str = "") -> None:
        """End an arm as complete (with its value), pruned or failed (with the reason).

        Raises:
            TakenOverError: the arm is another's by now.
        """
        ended = next(known for known, name in _STATES.items() if name == state)
        with _while_it_is_mine():
            if why:
                self._storage.set_trial_user_attr(self._trial_id(arm), _WHY, why)
            self._storage.set_trial_state_values(self._trial_id(arm), ended, None if value is None else [value])

    def give_back(self, arm: State, why: str, *, steps: int = 0) -> bool:
        """Have an arm done again, from the seeds on that are not done, and return whether it was this call's doing.

        `steps`: how many steps of intermediate values each seed has; those of seeds that are done are taken over.
        """
        trial = self._storage.get_trial(self._trial_id(arm))
        if trial.state is not TrialState.RUNNING:
            return False
        chosen, done = _LEVELS in trial.user_attrs, len(_state(trial).results) * steps
        ours = {
            key: value for key, value in trial.user_attrs.items() if key in (_ARM, _LEVELS) or key.startswith(_SEED)
        }
        again = create_trial(
            state=TrialState.WAITING,
            params=trial.params if chosen else {},
            distributions=trial.distributions if chosen else {},
            user_attrs={**ours, _AGAIN: trial.number},
            intermediate_values={step: value for step, value in trial.intermediate_values.items() if step <= done},
        )
        successor = self._storage.get_trial(self._storage.create_new_trial(self._id, template_trial=again))
        try:
            self._storage.set_trial_user_attr(self._trial_id(arm), _SUPERSEDED, successor.number)
            self._storage.set_trial_user_attr(self._trial_id(arm), _WHY, why)
            self._storage.set_trial_state_values(self._trial_id(arm), TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False
        finally:
            self._tidy()
        return True

    def heal(self, *, steps: int = 0) -> list[State]:
        """Have the arms done again whose workers are dead, and return them."""
        found = [arm for arm in self.arms() if arm.state == "running" and _is_lost(arm.trial)]
        return [arm for arm in found if self.give_back(arm, "its worker was lost", steps=steps)]

    def _trials(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._id, deepcopy=False)

    def _trial_id(self, arm: State) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, arm.number)

    def _tidy(self) -> None:
        """End the trials that will never count: of several that were made at the same moment, all but one."""
        trials = {trial.number: trial for trial in self._trials()}
        counting = {trial.number for trial in _current(trials.values()).values()}
        for number, trial in trials.items():
            if trial.state is not TrialState.WAITING or _ARM not in trial.user_attrs or number in counting:
                continue
            before = trials.get(trial.user_attrs.get(_AGAIN, -1))
            if before is None or before.state.is_finished():
                trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
                with suppress(UpdateFinishedTrialError):
                    self._storage.set_trial_user_attr(trial_id, _WHY, "another trial of this arm counts")
                    self._storage.set_trial_state_values(trial_id, TrialState.FAIL)


def find(storage: BaseStorage, name: str) -> Study | None:
    """Return the study of a name, None where there is none."""
    try:
        return Study(storage, name)
    except KeyError:
        return None


def joined(storage: BaseStorage, name: str, about: About, arms: Sequence[Planned]) -> Study:
    """Return the study, made and filled where it was not, whoever else does the same at this moment.

    Raises:
        DiagError: there is a study of this name, and it is of something else.
    """
    with suppress(DuplicatedStudyError):
        storage.create_new_study([about.direction], name)
        Study(storage, name).fill(about, arms)
    study = Study(storage, name)
    _wait_until_filled(study)
    if not study.filled:  # who made it was killed, or hangs
        if study.about is None and study.arms() == [] and study._trials():
            raise DiagError(f"the study {name} was made by another program", mend="--study NAME begins another one")
        _refuse_another(study, about)
        study.fill(about, arms)
    _refuse_another(study, about)
    return study


def _wait_until_filled(study: Study) -> None:
    arms, since = -1, time.monotonic()
    while not study.filled and time.monotonic() - since < _PATIENCE_S:
        now = len(study.arms())
        if now != arms:
            arms, since = now, time.monotonic()
        time.sleep(_POLL_S)


def _refuse_another(study: Study, about: About) -> None:
    there = study.about
    found = [] if there is None else list(there.differs(about))
    if found:
        raise DiagError(
            f"there is a study {study.name} of another spec: {'; '.join(found)}", mend="--study NAME begins another one"
        )


@contextmanager
def _while_it_is_mine() -> Iterator[None]:
    try:
        yield
    except UpdateFinishedTrialError as error:
        raise TakenOverError from error


def _current(trials: Iterable[FrozenTrial]) -> dict[int, FrozenTrial]:
    """Return for each arm the trial that counts."""
    by_number = {trial.number: trial for trial in trials}
    found: dict[int, FrozenTrial] = {}
    for trial in by_number.values():
        if _ARM in trial.user_attrs and _AGAIN not in trial.user_attrs:
            found.setdefault(trial.user_attrs[_ARM], trial)
    for arm, trial in found.items():
        while trial.state is TrialState.FAIL and _SUPERSEDED in trial.user_attrs:
            trial = by_number[trial.user_attrs[_SUPERSEDED]]
        found[arm] = trial
    return found


def _state(trial: FrozenTrial) -> State:
    attributes: dict[str, Any] = trial.user_attrs
    results = {
        int(key.removeprefix(_SEED)): decode(values) for key, values in attributes.items() if key.startswith(_SEED)
    }
    return State(
        arm=attributes[_ARM],
        number=trial.number,
        state=_STATES[trial.state],
        levels=decode(attributes.get(_LEVELS)),
        results=results,
        why=str(attributes.get(_WHY, "")),
        trial=trial,
    )


def _is_lost(trial: FrozenTrial) -> bool:
    started = 0.0 if trial.datetime_start is None else trial.datetime_start.timestamp()
    return lost(trial.user_attrs.get(_WORKER), max(started, float(trial.user_attrs.get(_HEARTBEAT, 0.0))))
