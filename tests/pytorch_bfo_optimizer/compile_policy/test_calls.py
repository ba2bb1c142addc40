from __future__ import annotations

import threading

from pytorch_bfo_optimizer.compile_policy.calls import LONGEST, Call, described, running, shortened


def test_reasons_are_one_line_with_dynamos_explanation() -> None:
    text = "\n Failed to trace builtin operator\n  Explanation: Dynamo does not know `print`\n  Hint: a\n  Hint: b"
    assert shortened(text) == "Failed to trace builtin operator (Dynamo does not know `print`)"
    assert shortened(" \n ") == ""
    assert len(shortened("x" * 1000)) == LONGEST + 4
    assert described(ValueError("a\nb")) == "ValueError: a"
    assert described(ValueError()) == "ValueError"


def test_a_call_is_known_in_its_own_thread_alone() -> None:
    seen = []
    running.call = Call()
    try:
        other = threading.Thread(target=lambda: seen.append(running.call))
        other.start()
        other.join()
    finally:
        running.call = None
    assert seen == [None]
