"""Whether a run still pays, and what comes after it. Plain numbers: no tensor, no closure, no randomness.

A run is judged by the mean losses of successive blocks of its steps, each a quarter as long as the run is old. So
"it no longer pays" means the same at every time scale: a learning curve that falls as a power of time is not cut off
because it has become slow, and mini-batch noise averages out before it decides anything.

The leading run goes on as long as it pays. Then the colony forages (it is HUNGRY): it finds a place a hop away from the
record, and a run STRAYS from there until it has got below the record and leads, or is seen to lead nowhere. One that
comes back to where the record is asks for longer hops, one that ends higher for shorter ones. After some strays the run
that led is RECALLED to the record: after half as many the next time if it does pay after all, however little, and after
twice as many if not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SHORTEST = 8
"""Least steps in a block."""

QUARTER = 0.25
"""Length of a block, as a share of the age of its run."""

WORTH = 0.03
"""A run pays as long as the mean falls from block to block by this share of what there is to gain."""

LITTLE = 0.1
"""The part of that which is enough for a run that was left and nothing better was found."""

OUTLOOK = 2.0
"""Falls, of the size of the last one, that a stray is still given credit for."""

SURE = 3.0
"""Standard errors by which a difference of means has to be seen; twice as many for a single loss."""

LONGER, SHORTER = 2.0, 2**-0.5
"""Factors on the hop: two that end higher undo one that came back."""

START = 0.25
"""Length of a stray's first move, in hops."""


class Phase:
    """What the next step does. Plain numbers, as the state of an optimizer has to be."""

    LEADS = 0
    """The run goes on; where it is, is the record."""
    HUNGRY = 1
    """The colony looks for a place to run from."""
    STRAYS = 2
    """A run from there goes on; the record stays where it is."""
    RECALLED = 3
    """The run that led begins again at the record, and leads."""


@dataclass
class Search:
    """How the search stands. Losses and means are in units of the loss."""

    phase: int = Phase.LEADS
    length: float = 1.0
    """s, of the next move, in units of lr C."""
    hop: float = 0.0
    """Distance of a find from the record, in units of lr C; 0 while no run has shown how far they go."""
    felt: int = 0
    """1 if the slope where the run stands is in its moments."""
    trusted: int = 0
    """Steps for which the loss of a second closure stands for that of the first."""
    age: int = 0
    """Steps of the run."""
    block: int = SHORTEST
    """Steps of the block at hand."""
    count: int = 0
    """Losses in it so far, and their sum; half the sum of squared differences of neighbours; the last of them."""
    total: float = 0.0
    rough: float = 0.0
    last: float = math.nan
    mean: float = math.nan
    """Mean of the block before, and its squared standard error; NaN while there is none."""
    doubt: float = 0.0
    first: float = math.nan
    """The very first loss."""
    level: float = math.inf
    """Mean loss of the leading run when it stopped paying, and its squared standard error."""
    level_doubt: float = 0.0
    noise: float = 0.0
    """Variance of one loss then."""
    lead_age: int = 0
    """Age and length of the leading run then."""
    lead_length: float = 1.0
    recalled: int = 0
    """1 while the leading run has been recalled, and not shown yet whether it pays."""
    patience: int = 1
    """Strays before the run that led is recalled, and those left of them."""
    left: int = 1

    def note(self, loss: float, *, still: bool = False) -> bool:
        """Take a finite loss, measured where the run is, into account.

        Args:
            loss: the loss.
            still: the gradient there is zero: the run has come to its end.

        Returns: whether that place is the record from now on.
        """
        self.age += 1
        if math.isnan(self.first):
            self.first = loss
        leads = self.phase == Phase.LEADS
        if not leads and loss + 2 * SURE * math.sqrt(self.noise) < self.level - self.worth(self.level):
            self.phase = Phase.LEADS
            return True
        before, doubt_before = self.mean, self.doubt
        variance = self._put(loss, close=still)
        if self.count or (math.isnan(before) and not still):  # the block goes on, or there is none to compare with
            return leads
        fall = before - self.mean if before == before else 0.0
        error = SURE * math.sqrt(self.doubt + doubt_before)
        spent = still or fall + error <= self.worth(self.mean)
        if leads:
            self._judge_leader(fall, error, variance, spent=spent)
            return True
        return self._judge_stray(fall, error, spent=spent)

    def _judge_leader(self, fall: float, error: float, variance: float, *, spent: bool) -> None:
        if self.recalled and fall - error > LITTLE * self.worth(self.mean):
            self.recalled, self.patience = 0, max(self.patience // 2, 1)
            return
        if not spent:
            return
        self.patience *= 1 + self.recalled
        self.phase, self.recalled, self.left = Phase.HUNGRY, 0, self.patience
        self.level, self.level_doubt, self.noise = self.mean, self.doubt, variance
        self.lead_age, self.lead_length = self.age, self.length

    def _judge_stray(self, fall: float, error: float, *, spent: bool) -> bool:
        """Whether the stray is better, or has come back a little lower."""
        worth = self.worth(self.level)
        if self.mean + error < self.level - worth:
            self.phase = Phase.LEADS
            return True
        hopeless = self.mean - OUTLOOK * max(fall, 0.0) - error > self.level + worth
        if not hopeless and not spent:
            return False
        back = self.mean <= self.level + worth
        self.give_up(back=back)
        lower = back and self.mean < self.level
        self.level = min(self.level, self.mean)
        return lower

    def give_up(self, *, back: bool = False) -> None:
        """The stray, or the search for a place, leads nowhere; or back to where the record is."""
        self.hop *= LONGER if back else SHORTER
        self.left -= 1
        self.phase = Phase.HUNGRY if self.left > 0 else Phase.RECALLED

    def stray(self) -> None:
        """A run begins at what was found."""
        self.phase, self.length = Phase.STRAYS, self.hop * START
        self._begin(age=0)

    def recall(self) -> None:
        """The run that led begins again at the record."""
        self.phase, self.length, self.recalled = Phase.LEADS, self.lead_length, 1
        self._begin(age=self.lead_age)
        self.mean, self.doubt = self.level, self.level_doubt

    def restart(self) -> None:
        """A leading run begins at a place that nothing is known about."""
        self.phase, self.recalled = Phase.LEADS, 0
        self._begin(age=0)

    def worth(self, loss: float) -> float:
        """The fall that a block has to bring: a share of the loss, or of all that was gained, whichever is less."""
        return WORTH * max(min(abs(loss), self.first - loss), 0.0)

    def _begin(self, *, age: int) -> None:
        self.age, self.felt, self.mean, self.doubt = age, 0, math.nan, 0.0
        self._open()

    def _open(self) -> None:
        self.block = max(SHORTEST, int(QUARTER * self.age))
        self.count, self.total, self.rough, self.last = 0, 0.0, 0.0, math.nan

    def _put(self, loss: float, *, close: bool) -> float:
        """Put a loss into the block. Where that fills it, open the next, and return the variance of one loss in it.

        The variance is that of neighbours (von Neumann 1941), which a trend hardly changes.
        """
        self.count += 1
        self.total += loss
        if self.count > 1:
            difference = min(abs(loss - self.last), 1e150)
            self.rough += difference * difference / 2
        self.last = loss
        if self.count < self.block and not close:
            return 0.0
        variance = self.rough / max(self.count - 1, 1)
        self.mean, self.doubt = self.total / self.count, variance / self.count
        self._open()
        return variance
