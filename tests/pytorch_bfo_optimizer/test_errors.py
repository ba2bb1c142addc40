from __future__ import annotations

import builtins
import inspect
import pickle
import re

from pytorch_bfo_optimizer import errors


def test_the_tree_drawn_at_the_top_is_the_tree() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or "")) | {"BFOError"}
    defined = {name for name, found in vars(errors).items() if inspect.isclass(found) and issubclass(found, Exception)}
    assert drawn == defined
    assert all(issubclass(getattr(errors, name), errors.BFOError) for name in defined)


def test_each_error_is_also_the_builtin_that_the_tree_names() -> None:
    for name, builtin in re.findall(r"[├└]── (\w+)\((\w+)\)", errors.__doc__ or ""):
        assert issubclass(getattr(errors, name), getattr(builtins, builtin)), name


def test_no_gradient_error_survives_pickle() -> None:
    back = pickle.loads(pickle.dumps(errors.NoGradientError("cut here", reason="no-graph", loss=1.5)))
    assert (back.why, back.reason, str(back)) == ("cut here", "no-graph", "cut here")


def test_what_another_rank_raised_survives_pickle() -> None:
    back = pickle.loads(pickle.dumps(errors.RankFailedError(3, "ValueError", "no\nmore")))
    assert (back.rank, back.error_type, back.error_message) == (3, "ValueError", "no\nmore")
    assert str(back) == "rank 3 raised ValueError: no\nmore"


def test_who_is_lost_survives_pickle() -> None:
    back = pickle.loads(pickle.dumps(errors.RankLostError("gone", ranks=(1, 2))))
    assert (str(back), back.ranks) == ("gone", (1, 2))
