"""Lives of neurons, from the events of a turnover."""

from __future__ import annotations

from bfo_diag.neurons import Neuron, busiest, neurons


def event(step, kind, serials, parents=None, *, width=4, slots=None, layer="0"):
    parents = [[] for _ in serials] if parents is None else parents
    slots = list(range(len(serials))) if slots is None else slots
    return {
        "step": step,
        "layer": layer,
        "kind": kind,
        "neurons": serials,
        "parents": parents,
        "slots": slots,
        "width": width,
        "why": "",
    }


def test_a_replacement_takes_the_row_of_what_died():
    events = [
        event(10, "death", [1, 3], slots=[1, 3], width=4),
        event(10, "birth", [4, 5], [[0], [0, 2]], slots=[1, 3]),
        event(20, "death", [4], slots=[1]),
        event(20, "birth", [6], [[5]], slots=[1]),
    ]
    assert neurons(events, last=30) == [
        Neuron(0, (), 0, None, 30, 0),
        Neuron(1, (), 0, 10, 30, 1),
        Neuron(2, (), 0, None, 30, 2),
        Neuron(3, (), 0, 10, 30, 3),
        Neuron(4, (0,), 10, 20, 30, 1),
        Neuron(5, (0, 2), 10, None, 30, 3),
        Neuron(6, (5,), 20, None, 30, 1),
    ]


def test_a_line_ends_at_death_or_at_the_last_step():
    dead, alive = Neuron(1, (), 5, 10, 30, 2), Neuron(2, (), 5, None, 30, 2)
    assert (dead.points, alive.points) == (((5.0, 2.0), (10.0, 2.0)), ((5.0, 2.0), (30.0, 2.0)))


def test_growth_tells_how_wide_the_layer_was():
    found = neurons([event(5, "birth", [3, 4], [[0], [1]], width=5, slots=[3, 4])], last=8)
    assert [one.serial for one in found if one.born == 0] == [0, 1, 2]
    assert [(one.serial, one.born, one.row) for one in found if one.born] == [(3, 5, 3), (4, 5, 4)]


def test_shrinking_tells_how_wide_the_layer_was():
    found = neurons([event(5, "death", [1], width=3), event(6, "death", [0, 2], width=1)], last=8)
    assert [(one.serial, one.died) for one in found] == [(0, 6), (1, 5), (2, 6), (3, None)]


def test_a_neuron_that_fades_lives():
    found = neurons([event(5, "fade", [1], width=2)], last=8)
    assert [(one.serial, one.died) for one in found] == [(0, None), (1, None)]


def test_the_last_step_is_not_before_the_last_event():
    assert {one.last for one in neurons([event(5, "death", [0], width=3)], last=0)} == {5}


def test_the_layer_with_the_most_events_is_the_busiest_and_the_first_of_those():
    events = [event(1, "death", [0], layer=layer) for layer in ("b", "a", "a", "b", "c")]
    assert busiest(events) == ("b", 3)
    assert busiest(events[1:]) == ("a", 3)
