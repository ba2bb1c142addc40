from __future__ import annotations

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from bfo_diag.probes.sweep import arms, spec, suggestions

SPEC = """
sampler = "{sampler}"
trials = 30
[recipe]
data = {{ name = "digits" }}
model = {{ name = "mlp" }}
optimizer = {{ name = "SGD", lr = 0.5 }}
[factors]
optimizer.lr = {{ low = 1e-4, high = 1.0, log = true }}
model.width = {{ low = 8, high = 64 }}
training.autocast = ["bfloat16"]
"""


@pytest.fixture
def read(tmp_path):
    def write(sampler: str):
        (tmp_path / "s.toml").write_text(SPEC.format(sampler=sampler))
        return spec.read(str(tmp_path / "s.toml"))

    return write


def done(arm: int, drawn, value: float):
    attributes = {"arm": arm}
    return create_trial(
        state=TrialState.COMPLETE,
        params=drawn.params,
        distributions=drawn.distributions,
        value=value,
        user_attrs=attributes,
    )


def tried(read_spec, count: int) -> list:
    found = []
    for arm in range(1, count + 1):
        levels, drawn = suggestions.suggested(read_spec, arm, found)
        found.append(done(arm, drawn, abs(levels["optimizer.lr"] - 0.1)))
    return found


def test_an_arm_of_random_is_a_function_of_its_number(read):
    asked = read("random")
    first = [suggestions.suggested(asked, arm, ())[0] for arm in range(1, 6)]
    assert [suggestions.suggested(asked, arm, tried(asked, 3))[0] for arm in range(1, 6)] == first
    assert len({levels["optimizer.lr"] for levels in first}) == 5
    assert all(1e-4 <= levels["optimizer.lr"] <= 1.0 and 8 <= levels["model.width"] <= 64 for levels in first)


def test_an_arm_of_tpe_depends_on_what_is_done_and_not_on_the_order_in_which_it_was(read):
    asked = read("tpe")
    before = tried(asked, 20)
    levels, drawn = suggestions.suggested(asked, 21, before)
    assert suggestions.suggested(asked, 21, before[::-1])[0] == levels
    assert suggestions.suggested(asked, 21, before[:12])[0] != levels
    assert drawn.params["optimizer.lr"] == levels["optimizer.lr"]
    failed = create_trial(state=TrialState.FAIL, user_attrs={"arm": 30})
    assert suggestions.suggested(asked, 21, [*before, failed])[0] == levels


def test_all_that_random_will_try_is_checked_beforehand(read):
    asked = read("random")
    checked = [arm.levels for arm in suggestions.known(asked)]
    assert all(suggestions.suggested(asked, arm, ())[0] in checked for arm in range(1, 31))
    assert [arm.levels for arm in suggestions.known(read("tpe"))] == [arm.levels for arm in arms.to_check(asked)]


def test_known_levels_are_what_a_sampler_would_have_drawn(read):
    asked = read("tpe")
    params, distributions = suggestions.parameters(
        asked, {"optimizer.lr": 0.5, "model.width": 8, "training.autocast": "bfloat16"}
    )
    assert params == {"optimizer.lr": 0.5, "model.width": 8, "training.autocast": "bfloat16"}
    assert distributions["optimizer.lr"] == FloatDistribution(1e-4, 1.0, log=True)
    assert distributions["training.autocast"] == CategoricalDistribution(("bfloat16",))
    drawn = suggestions.suggested(asked, 1, ())[1]
    assert drawn.distributions == distributions
    outside = {"optimizer.lr": 2.0, "model.width": None, "training.autocast": None}
    assert suggestions.parameters(asked, outside) == ({}, {})
