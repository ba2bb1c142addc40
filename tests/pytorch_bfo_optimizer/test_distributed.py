"""The ranks are processes of their own, forked by `rank_programs`; gloo, on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytorch_bfo_optimizer import BFO
from pytorch_bfo_optimizer.distributed import distribute
from pytorch_bfo_optimizer.errors import DistributedError
from pytorch_bfo_optimizer.sharing import checksum_of

Job = Callable[..., list[dict[str, Any]]]


def without_calls(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name != "calls"}


SEASONS = {"chem_steps": 2, "repro_steps": 1, "elim_prob": 0.4}


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        ("BFO", SEASONS),
        ("HybridBFO", SEASONS),
        ("AdaptiveBFO", {"budget": 300}),
        ("AdaptiveBFO", {"population_size": None}),
    ],
)
@pytest.mark.parametrize("options", [{}, {"batched": True, "chunk_size": 3}])
def test_two_processes_find_what_one_finds_to_the_bit(
    job: Job, alone: Callable[..., dict[str, Any]], cls: str, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    expected = alone(cls=cls, **settings, **options)
    for facts in job("train", cls=cls, **settings, **options):
        assert without_calls(facts) == without_calls(expected)
    assert expected["losses"][-1] < expected["losses"][0]


@pytest.mark.parametrize("size", [1, 3])
def test_any_number_of_processes_does(job: Job, alone: Callable[..., dict[str, Any]], size: int) -> None:
    told = {"cls": "BFO", "dtype": "float64"}
    expected, found = alone(**told), job("train", size=size, **told)
    assert [without_calls(facts) for facts in found] == [without_calls(expected)] * size
    assert sum(facts["calls"] for facts in found) == expected["calls"] == expected["evaluations"]


def test_a_population_in_units_of_eight_is_the_default_and_what_one_process_has_to_be_told(job: Job) -> None:
    told = {"cls": "BFO", "batched": True, "population_size": 20, "steps": 3}
    (expected,) = job("train", size=1, shared=False, chunk_size=8, **told)
    assert job("train", **told) == [expected, expected]


def test_what_does_not_fit_into_a_message_follows_in_a_second(job: Job, alone: Callable[..., dict[str, Any]]) -> None:
    told = {"cls": "BFO", "batched": True, "population_size": 20, "steps": 3}
    expected = alone(chunk_size=20, **told)
    assert job("train", chunk_size=1, rechunk=20, **told) == [expected, expected]


@pytest.mark.parametrize("cls", ["BFO", "HybridBFO"])
def test_a_ddp_model_with_buffers_is_evaluated_without_waiting_for_the_others(
    job: Job, alone: Callable[..., dict[str, Any]], cls: str
) -> None:
    expected = alone(cls=cls, norm=True)
    for facts in job("train", cls=cls, norm=True, ddp=True):
        assert without_calls(facts) == without_calls(expected)


def test_with_data_of_its_own_on_each_rank_there_is_still_one_colony(job: Job) -> None:
    one, other = job("train", cls="HybridBFO", ddp=True, own_data=True)
    assert without_calls(one) == without_calls(other)
    assert one["losses"][-1] < one["losses"][0]


def test_members_that_still_swim_are_spread_evenly(job: Job) -> None:
    found = job("swims", size=3)
    active = found[0]["active"]
    assert any(0 < count < 9 for count in active)
    for slot, count in enumerate(active):
        shares = [facts["slots"][slot] for facts in found]
        assert sum(shares) == count
        assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize("batched", [False, True])
def test_only_fitness_travels_whatever_the_number_of_parameters(job: Job, batched: bool) -> None:
    small, large = (job("counts_bytes", batched=batched, dimension=dimension) for dimension in (3, 5000))
    for facts in [*small, *large]:
        # 8 bytes for each of its 32 members, one more that a gradient could bring, and two words of header
        assert {tuple(call) for call in facts["steps"]} == {("c10d::allgather_", 8 * (32 + 1 + 2))}
        assert 5 <= len(facts["steps"]) <= 5 * 4
        assert facts["evaluations"] <= 5 * 4 * 64
    assert small[0]["start"] == large[0]["start"]
    assert sum(size for _, size in small[0]["start"]) < 6000  # once: the generator's state, and what is compared


@pytest.mark.parametrize("where", ["first slot", "second slot", "gradient"])
@pytest.mark.parametrize("who", [0, 1])
def test_an_exception_on_one_rank_ends_the_step_on_all(job: Job, where: str, who: int) -> None:
    found = job("raises", where=where, who=who)
    for rank, facts in enumerate(found):
        error = facts["error"]
        if rank == who:
            assert (error["type"], error["text"]) == ("QuarrelError", f"no, says rank {who}")
        else:
            assert (error["type"], error["rank"]) == ("RankFailedError", who)
            assert (error["error_type"], error["error_message"]) == ("QuarrelError", f"no, says rank {who}")
        assert facts["unchanged"] == [True, True, True]
        assert facts["seconds"] < 4  # it waited for nothing
        assert facts["then"] < facts["first"]  # the next step is as any other
    assert found[0]["population"] == found[1]["population"]
    assert found[0]["evaluations"] == found[1]["evaluations"]


def test_an_error_that_all_ranks_meet_is_each_ones_own(job: Job) -> None:
    one, other = job("raises", where="everywhere")
    assert one["error"] == other["error"]
    assert one["error"]["type"] == "NonFiniteGenerationError"
    assert one["unchanged"][:2] == other["unchanged"][:2] == [True, True]
    assert one["then"] == other["then"] <= one["first"]
    assert one["population"] == other["population"]


def test_an_interrupt_on_one_rank_is_told_and_nobody_is_waited_for(job: Job) -> None:
    other, interrupted = job("raises", where="first slot", error="KeyboardInterrupt")
    assert interrupted["error"]["type"] == "KeyboardInterrupt"
    assert (other["error"]["type"], other["error"]["error_type"]) == ("RankFailedError", "KeyboardInterrupt")
    for facts in (other, interrupted):
        assert facts["seconds"] < 4
        assert facts["unchanged"] == [True, True, True]
        assert "the ranks have parted" in facts["then"]["text"]
        assert facts["alone"] < facts["first"]


@pytest.mark.parametrize(("how", "who"), [("exit", 1), ("kill", 0), ("hang", 1), ("stop", 0)])
def test_a_rank_that_dies_or_hangs_is_an_error_on_the_others_in_time(job: Job, how: str, who: int) -> None:
    found = job("goes", size=3, how=how, who=who, stuck=[who])
    assert found[who] == {"gone": True}
    for rank, facts in enumerate(found):
        if rank == who:
            continue
        error = facts["error"]
        assert error["type"] == "RankLostError"
        if who != 0:  # with rank 0, the store that the others would answer in has gone
            assert error["ranks"] == [who]
            assert f"rank {who} of 3 is gone or hangs" in error["text"]
        assert facts["seconds"] < 8  # the timeout of 2 s, the roll call, and a busy machine
        assert facts["unchanged"] == [True, True, True]
        assert facts["generation"] == 2
        assert "call distribute() again" in facts["then"]["text"]


def test_where_another_one_raises_while_a_rank_dies_its_exception_comes_first(job: Job) -> None:
    facts, _ = job("goes", how="exit", who=1, angry=0, stuck=[1])
    assert (facts["error"]["type"], facts["error"]["cause"]) == ("QuarrelError", "RankLostError")
    assert facts["unchanged"] == [True, True, True]


def test_a_rank_that_is_only_late_is_told_from_one_that_is_gone(job: Job) -> None:
    for facts in job("goes", how="late", who=1):
        assert facts["error"]["type"] == "RankLostError"
        assert facts["error"]["ranks"] == []
        assert "all of them live: one came too late" in facts["error"]["text"]
        assert facts["unchanged"] == [True, True, True]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("parameters", "begins with other parameters than"),
        ("settings", "begins with other settings"),
        ("age", "begins with another number of generations"),
        ("colony", "begins with another colony"),
        ("moved", "is about to evaluate other positions than rank 0, in generation 2"),
        ("generator", "is about to evaluate other positions than rank 0, in generation 2"),
    ],
)
def test_ranks_that_do_not_hold_the_same_colony_are_refused(job: Job, what: str, said: str) -> None:
    for facts in job("disagrees", what=what):
        assert facts["error"]["type"] == "RanksDisagreeError"
        assert facts["error"]["text"].startswith("rank 1 ")
        assert said in facts["error"]["text"]
        assert "steps" not in facts


def test_a_state_is_saved_and_loaded_as_ever_and_a_copy_is_alone(job: Job) -> None:
    one, other = job("resumes")
    assert one == other
    assert one["losses"] == one["again"]
    assert one["minimized"][1] <= 100
    assert "shared already" in one["twice"]


def test_a_rank_that_never_comes_is_not_waited_for_longer_than_the_timeout(job: Job) -> None:
    found, _ = job("comes_alone")
    assert found["error"]["type"] == "RankLostError"
    assert "not every rank has called distribute() within 1 s" in found["error"]["text"]
    assert found["seconds"] < 10


def test_without_a_job_it_says_so() -> None:
    optimizer = BFO([torch.zeros(2)])
    with pytest.raises(DistributedError, match="init_process_group"):
        distribute(optimizer)
    for timeout in (0.0, float("nan"), float("inf")):
        with pytest.raises(DistributedError, match="timeout"):
            distribute(optimizer, timeout=timeout)


def test_another_kind_of_data_is_refused_by_name() -> None:
    with pytest.raises(DistributedError, match=r"data is 'mine': it must be one of 'same', 'own'"):
        distribute(BFO([torch.zeros(2)]), data="mine")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_checksum_notices_one_bit_and_an_exchange_of_members(dtype: torch.dtype) -> None:
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = checksum_of(values)
    assert checksum_of(values.clone()) == before
    assert checksum_of(values.t().contiguous().t()) == before
    assert checksum_of(values[[1, 0, 2, 3, 4]]) != before
    for index in range(values.numel()):
        changed = values.clone().flatten()
        changed[index] = torch.nextafter(changed[index], torch.tensor(9.0, dtype=dtype))
        assert checksum_of(changed.reshape(5, 7)) != before


def test_some_ranks_of_a_job_can_share_a_colony_and_again(job: Job) -> None:
    outside, one, other = job("part_of_a_job", size=3)
    assert "this process is not in the group" in outside["error"]["text"]
    assert [found[:2] for found in one["found"]] == [[0, 2]] * 2
    assert [found[:2] for found in other["found"]] == [[1, 2]] * 2
    assert one["population"] == other["population"]


@pytest.mark.parametrize("how", ["fsdp2", "fsdp1", "fsdp1-orig"])
def test_sharded_parameters_are_refused_with_the_way_that_works(job: Job, how: str) -> None:
    for facts in job("sharded", how=how):
        assert facts["type"] == "UnsupportedParameterError"
        assert "parameter 0 is one process's part of a" in facts["text"]
        assert 'distribute(optimizer, data="own")' in facts["text"]


def test_a_hook_that_raises_is_its_own_ranks_trouble(job: Job) -> None:
    sink, other = job("hooked")
    assert sink["error"] == "OSError"
    assert other["error"] is None
    assert sink["losses"] == other["losses"]
    assert sink["seconds"] < 4  # nobody waits for an answer to it
