from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator

import pytest

from pytorch_bfo_optimizer.search import SHORTEST, START, Phase, Search

Curve = Callable[[int], float]


def noted(search: Search, losses: Iterator[float], *, most: int) -> int:
    """Note losses as long as the run goes on; how many there were."""
    phase = search.phase
    for count in range(1, most + 1):
        search.note(next(losses))
        if search.phase != phase:
            return count
    return most


def over(curve: Curve) -> Iterator[float]:
    return map(curve, itertools.count())


def a_spent_leader(level: float = 10.0) -> Search:
    """A search whose first run came down to `level` and stopped paying."""
    search = Search()
    noted(search, over(lambda t: level + 10 * 0.5**t), most=1000)
    assert search.phase == Phase.HUNGRY
    return search


# --- the leading run ---


@pytest.mark.parametrize(
    "curve",
    [lambda t: 0.999**t, lambda t: (1 + t) ** -0.3, lambda t: 5 - 1e-3 * t, lambda t: -float(t)],
    ids=["exponential", "power law", "linear", "below zero"],
)
def test_a_loss_that_goes_on_falling_pays(curve: Curve) -> None:
    search = Search()
    assert noted(search, over(curve), most=4000) == 4000


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_one_that_has_come_to_its_floor_does_not_whatever_its_unit(scale: float) -> None:
    search = Search()
    assert noted(search, over(lambda t: scale * (7 + 100 * 0.8**t)), most=1000) == 50
    assert search.level == pytest.approx(7 * scale, rel=0.01)


def test_the_longer_it_took_to_come_down_the_longer_it_is_waited_for() -> None:
    def until_spent(rate: float) -> int:
        return noted(Search(), over(lambda t: 1 + math.exp(-t / rate)), most=10_000)

    took = [until_spent(rate) for rate in (10, 100, 1000)]
    assert took[0] < 100 < took[1] < 1000 < took[2]


def test_noise_averages_out_before_it_decides() -> None:
    source = random.Random(0)
    falling = Search()
    assert noted(falling, over(lambda t: (1 + t / 10) ** -0.5 * source.uniform(0.5, 1.5)), most=5000) == 5000
    flat = Search()
    took = noted(flat, over(lambda t: (1 + 9 * 0.5**t) * source.uniform(0.5, 1.5)), most=50_000)
    assert 200 < took < 50_000  # 20 where nothing is noisy
    assert flat.level == pytest.approx(1, rel=0.2)


def test_at_a_stationary_point_it_ends_at_once() -> None:
    search = Search()
    assert search.note(3.0, still=True)
    assert search.phase == Phase.HUNGRY
    assert search.level == 3.0


def test_where_it_leads_each_place_is_the_record() -> None:
    search = Search()
    assert all(search.note(loss) for loss in (5.0, 9.0, 1.0))


# --- strays ---


def test_a_stray_below_the_record_leads_at_once() -> None:
    search = a_spent_leader()
    search.stray()
    assert not search.note(12.0)
    assert not search.note(9.9)  # not by enough to be worth anything
    assert search.note(5.0)
    assert search.phase == Phase.LEADS


def test_with_noise_a_single_low_loss_is_not_enough() -> None:
    search, source = Search(), random.Random(0)
    noted(search, over(lambda t: (10 + 90 * 0.5**t) * source.uniform(0.7, 1.3)), most=50_000)
    assert search.phase == Phase.HUNGRY
    search.stray()
    assert not search.note(6.0)
    assert search.phase == Phase.STRAYS
    noted(search, over(lambda t: 6 * source.uniform(0.7, 1.3)), most=1000)
    assert search.phase == Phase.LEADS


def test_a_stray_that_ends_higher_is_given_up_and_the_hop_gets_shorter() -> None:
    search = a_spent_leader()
    search.hop = 8.0
    search.stray()
    assert search.length == 8 * START
    assert noted(search, over(lambda t: 20 + 10 * 0.5**t), most=1000) == 2 * SHORTEST  # no later than it can be known
    assert search.hop == pytest.approx(8 * 2**-0.5)


def test_a_stray_gets_credit_as_long_as_it_falls() -> None:
    search = a_spent_leader()
    search.stray()
    assert noted(search, over(lambda t: 12 + 60 * 0.93**t), most=1000) > 4 * SHORTEST


def test_a_stray_that_comes_back_makes_the_hop_longer_and_may_lower_the_record() -> None:
    search = a_spent_leader()
    search.hop = 1.0
    search.stray()
    took = noted(search, over(lambda t: 9.95 + 5 * 0.5**t), most=1000)
    assert took < 100
    assert search.hop == 2
    assert search.level == pytest.approx(9.95, rel=1e-3)


def test_the_run_that_led_is_recalled_after_ever_more_strays() -> None:
    search, strays = a_spent_leader(), []
    for _ in range(4):
        count = 0
        while search.phase == Phase.HUNGRY:
            search.stray()
            noted(search, over(lambda t: 20.0), most=1000)
            count += 1
        strays.append(count)
        assert search.phase == Phase.RECALLED
        search.recall()
        assert search.length == search.lead_length
        noted(search, over(lambda t: search.level), most=1000)
    assert strays == [1, 2, 4, 8]


def test_one_that_pays_after_all_leads_on_and_is_recalled_sooner() -> None:
    search = a_spent_leader()
    search.patience = 4
    search.recall()
    pays = 0.995
    assert noted(search, over(lambda t: 10 * pays ** (1 + t)), most=SHORTEST) == SHORTEST  # less than foraging asks for
    assert search.phase == Phase.LEADS
    assert (search.patience, search.recalled) == (2, 0)


def test_a_new_leader_does_not_make_them_sooner() -> None:
    search = a_spent_leader()
    search.patience = 8
    search.stray()
    search.note(1.0)
    noted(search, over(lambda t: 1.0), most=1000)
    assert (search.phase, search.left) == (Phase.HUNGRY, 8)


def test_losses_that_leave_the_range_of_squares_do_no_harm() -> None:
    search = Search()
    for loss in (1e308, -1e308, 1e308) * 10:
        search.note(loss)
    assert not math.isnan(search.hop)
