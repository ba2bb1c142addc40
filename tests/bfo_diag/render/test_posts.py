from __future__ import annotations

import itertools

from bfo_diag.render.arms import Arm
from bfo_diag.render.posts import BOTTOM, TOP, Post, name_lines, posts
from bfo_diag.render.strokes import WIDTH
from bfo_diag.shown import Axis, Chart

LOSS = Axis("val_loss", (), 1.0, 2.0)


def standing(*axes: Axis, places: dict[int, float] | None = None) -> list[Post]:
    arm = Arm("a", places or {}, None, 0, control=False)
    return posts(Chart("parallel", "t", "x", "y", (), axes=axes), [arm])


def test_axes_stand_apart_as_their_texts_ask_and_few_of_them_fill_the_width():
    long = Axis("a", ((0.0, "x" * 18), (1.0, "b")), 0.0, 1.0)
    first, second, metric = standing(long, Axis("t.gradient_mode"), LOSS)
    assert second.x - first.x > 6 * 18
    assert metric.x - second.x > 7 * len("gradient_mode")
    narrow, last = standing(Axis("a"), LOSS)
    assert WIDTH * 0.6 < last.x - narrow.x < WIDTH
    many = standing(*(Axis(str(n)) for n in range(19)), LOSS)
    assert all(90 < b.x - a.x < 140 for a, b in itertools.pairwise(many))


def test_a_lone_level_is_in_the_middle_and_values_beyond_the_ends_widen_an_axis():
    lone, _ = standing(Axis("a", ((0.0, "as-is"),), 0.0, 0.0), LOSS)
    assert lone.scale(0.0) == (TOP + BOTTOM) / 2
    wide, _ = standing(Axis("a", (), 0.0, 1.0), LOSS, places={0: 4.0})
    assert wide.scale(4.0) == TOP + 8
    assert wide.scale(0.0) == BOTTOM - 8
    assert wide.scale(1.0) == BOTTOM - 8 - (BOTTOM - TOP - 16) / 4


def test_only_arms_at_a_level_lie_aside():
    axis, metric = standing(Axis("a", ((16.0, "16"), (32.0, "32")), 16.0, 32.0), LOSS)
    assert axis.place(16.0, 0.5) - axis.place(16.0, -0.5) == 16
    assert axis.place(20.0, 0.5) == axis.place(20.0, -0.5) == axis.scale(20.0)
    assert metric.place(1.5, 0.5) == metric.scale(1.5)
    close, _ = standing(Axis("a", tuple((float(n), str(n)) for n in range(21)), 0.0, 20.0), LOSS)
    assert close.place(3.0, 0.5) - close.place(3.0, -0.5) < close.scale(3.0) - close.scale(4.0)


def test_a_name_is_two_lines_and_long_levels_keep_their_difference():
    assert name_lines(Axis("optimizer.lr")) == ("optimizer.", "lr")
    assert name_lines(Axis("optimizer")) == ("", "optimizer")
    levels = tuple((float(n), f"{{name=AdamW, lr=0.00{n}, weight_decay=0.1}}") for n in range(5))
    texts = [text for _, text in standing(Axis("a", levels, 0.0, 4.0), LOSS)[0].texts]
    assert len(set(texts)) == 5
    assert all(len(text) <= 18 for text in texts)
