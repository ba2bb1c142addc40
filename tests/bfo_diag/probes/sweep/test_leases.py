from __future__ import annotations

import time
from threading import Event

import pytest

from bfo_diag.probes.sweep import leases


def test_a_worker_of_this_host_lives_as_long_as_its_lock_whenever_it_was_heard_of(tmp_path):
    with leases.held(tmp_path) as worker:
        assert not leases.lost(worker.to_json(), 0.0)
        assert not leases.lost(worker.to_json(), time.time())
    assert not list(tmp_path.rglob("*.lock"))


def test_a_worker_that_ended_by_an_error_is_known_to_be_dead_at_once(tmp_path):
    with pytest.raises(KeyError), leases.held(tmp_path) as worker:
        raise KeyError
    assert leases.lost(worker.to_json(), time.time())


@pytest.mark.parametrize(
    "worker", [None, {"host": "elsewhere", "lease": "/x"}, {"host": leases.socket.gethostname(), "lease": "/nowhere"}]
)
def test_of_a_worker_that_can_not_be_seen_silence_tells(worker):
    assert not leases.lost(worker, time.time() - leases.SILENCE_S + 60)
    assert leases.lost(worker, time.time() - leases.SILENCE_S - 60)


def test_a_heart_beats_until_its_work_is_done_or_another_has_it(monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.001)
    beats, third = [], Event()

    def beat() -> bool:
        beats.append(len(beats))
        if len(beats) == 3:
            third.set()
        return True

    with leases.beating(beat):
        assert third.wait(30)
    after = len(beats)
    over = Event()
    with leases.beating(lambda: bool(over.set())):
        assert over.wait(30)
    assert len(beats) == after
