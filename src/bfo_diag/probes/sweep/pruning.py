"""Whether an arm is worth another epoch: Optuna's median pruner, asked after each.

An arm is compared with the arms that are complete at the same seed and epoch: at step `seeds before * epochs + epoch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from optuna import load_study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, MedianPruner, NopPruner

from bfo_diag.probes.sweep import storage
from bfo_diag.records import JSONValue


class Watch:
    """Reports the epochs of one seed of an arm to its Optuna trial."""

    def __init__(
        self, *, url: str | None, folder: str, study: str, number: int, before: int, metric: str, startup: int
    ):
        """Find the trial by its number; `before` is the step after which this seed's epochs come.

        `startup`: how many arms have to be complete before one is pruned.
        """
        self._url = storage.given(url)
        with storage.errors_told(self._url):
            self._storage = storage.opened(self._url, Path(folder))
            self._study = load_study(study_name=study, storage=self._storage)
            study_id = self._storage.get_study_id_from_name(study)
            self._trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        self._before, self._metric = before, metric
        self._pruner: BasePruner = NopPruner() if startup is None else MedianPruner(n_startup_trials=startup)

    def __call__(self, epoch: Mapping[str, JSONValue]) -> bool:
        """Report an epoch, and return whether to stop there."""
        with storage.errors_told(self._url):
            try:
                self._storage.set_trial_intermediate_value(
                    self._trial_id, self._before + epoch["epoch"], epoch[self._metric]
                )
            except UpdateFinishedTrialError:
                return False  # (its conductor will hear the same)
            return self._pruner.prune(self._study, self._storage.get_trial(self._trial_id))
