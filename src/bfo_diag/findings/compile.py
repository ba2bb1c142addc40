"""Why a graph breaks or is compiled again, and whether compile was applied at all."""

from bfo_diag.findings import Entry
from bfo_diag.records import Severity

_DOCS = "https://docs.pytorch.org/docs/stable/torch.compiler_troubleshooting.html"
_ERROR, _WARNING, _NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

ENTRIES = (
    Entry(
        "COMPILE-NOT-APPLIED",
        _ERROR,
        why="torch.compile was asked for, and nothing of the target runs in a compiled graph.",
        fix="take away what disables it, or mend the break at the line that is named: nothing after it was compiled",
        url=_DOCS,
    ),
    Entry(
        "COMPILE-PARTIAL",
        _NOTE,
        why="a part of the operations runs in compiled graphs, and a part eagerly.",
        fix="mend the sites that break the graph, the ones that run most operations outside first",
        url=_DOCS,
    ),
    Entry(
        "COMPILE-BYPASSED",
        _ERROR,
        why="what was compiled is not what the step calls: a method other than forward, or the module that was "
        "wrapped, runs without torch.compile.",
        fix="call the compiled object itself (model(x), not model.loss(x)), or compile that method: "
        "model.loss = torch.compile(model.loss)",
        url="https://docs.pytorch.org/docs/stable/generated/torch.compile.html",
    ),
    Entry(
        "COMPILE-SKIPPED",
        _ERROR,
        why="torch gave up on the function, and every call of it runs eagerly: worse than a break.",
        fix="mend the break that it names: in a loop, move the loop's body into a function of its own; a size that "
        "comes out of a tensor is better passed in as a Python number",
        url=_DOCS,
    ),
    Entry(
        "COMPILE-RAISED",
        _ERROR,
        why="torch.compile itself failed, and no call came to its end.",
        fix="read the error; a smaller backend (--backend eager, then aot_eager) tells which stage fails",
        url=_DOCS,
    ),
    Entry(
        "COMPILE-FULLGRAPH",
        _ERROR,
        why="with fullgraph=True the target does not compile as one graph.",
        fix="mend the site that it names, or compile a smaller part that is one graph",
        url="https://docs.pytorch.org/docs/stable/generated/torch.compile.html",
    ),
    Entry(
        "COMPILE-FULLGRAPH-DIFFERS",
        _NOTE,
        why="fullgraph=True changes how some breaks are handled (.item(), boolean masks), so the two can differ.",
        fix="with fullgraph=True in your own code you get the one graph; without it, these breaks",
    ),
    Entry(
        "COMPILE-RECOMPILES",
        _WARNING,
        why="a guard fails at call after call, and each time the function is compiled again.",
        fix="make what the guard is about a tensor, or constant; for sizes, torch.compile(dynamic=True)",
        url="https://docs.pytorch.org/docs/stable/torch.compiler_troubleshooting.html",
    ),
    Entry(
        "COMPILE-RECOMPILED",
        _NOTE,
        why="a guard failed, the function was compiled again, and it stayed so.",
        fix="nothing, if the inputs vary so in training too; for sizes, mark_dynamic avoids the second compile",
        url="https://docs.pytorch.org/docs/stable/torch.compiler_dynamic_shapes.html",
    ),
    Entry(
        "COMPILE-LIMIT",
        _ERROR,
        why="the function was compiled as often as torch allows; since then it runs eagerly, in silence.",
        fix="mend what the guard is about; raising torch._dynamo.config.recompile_limit only moves the end",
        url="https://docs.pytorch.org/docs/stable/torch.compiler_troubleshooting.html",
    ),
    Entry(
        "COMPILE-RESULT-DIFFERS",
        _WARNING,
        why="the first call returns something else with the option than without it.",
        fix="do not turn the option on before the difference is understood",
    ),
    Entry(
        "COMPILE-NOT-AS-EXPECTED",
        _ERROR,
        why="a built-in case does not compile as it should on this torch.",
        fix="report it with the run's folder",
    ),
    Entry(
        "COMPILE-BASELINE-GONE",
        _NOTE,
        why="a site of the baseline was not seen any more.",
        fix="write the baseline anew with --update-baseline, so that it can't come back unseen",
    ),
    Entry(
        "GB-UNKNOWN",
        _WARNING,
        why="the graph broke for a reason that has no id in this version of torch; its text is shown as it is.",
        fix="see torch's own text; TORCH_LOGS=graph_breaks shows it with the whole stack",
        url=_DOCS,
    ),
)

BREAK_MENDS = {
    "GB0007": "call it outside of the compiled function, and pass in what it returns",
    "GB0008": "leave this call outside of the compiled function: compile forward and loss, and call zero_grad() and "
    "the like from the loop around it",
    "GB0025": "in your own code: remove the torch._dynamo.graph_break(). In Optimizer.step torch breaks on purpose: "
    "compile what is inside, or leave step() outside",
    "GB0036": "an operation whose result size depends on data (nonzero, unique, masked_select): use torch.where or "
    "a mask of fixed size, or set torch._dynamo.config.capture_dynamic_output_shape_ops = True",
    "GB0059": "do not call it inside the compiled function: print or log after the call, from what it returns; for "
    "print itself torch._dynamo.config.reorderable_logging_functions.add(print) moves it to the end of the graph",
    "GB0088": "the exception leaves the compiled function: raise it before, or return a flag and raise outside",
    "GB0098": "the function is marked with torch.compiler.disable: call it outside of the compiled function, or remove "
    "the mark",
    "GB0099": "the function is marked with torch.compiler.disable: call it outside of the compiled function, or remove "
    "the mark",
    "GB0116": "build the object outside of the compiled function, and pass it in",
    "GB0123": "call backward() outside of the compiled function: compile what computes the loss. Or set "
    "torch._dynamo.config.trace_autograd_ops = True (torch 2.11 and later; not torch._dynamo.trace_autograd_ops)",
    "GB0124": "keep the tensor, and take the Python number outside of the compiled function; or set "
    "torch._dynamo.config.capture_scalar_outputs = True",
    "GB0170": "a Python if or while on a tensor's value: use torch.where for both branches, torch.cond or "
    "torch.while_loop, or decide outside of the compiled function",
    "GB0363": "make the object (a torch.Generator, a stream) before, outside of the compiled function, and pass it in",
    "GB7650": "draw the noise outside of the compiled function and pass it in, or use torch's global random numbers",
    "GB7000": "mend the break inside the loop, or move the loop's body into a function of its own: a break in a loop "
    "leaves the whole function eager",
}
"""The mend of a break where torch's own hint is missing, wrong or says less."""
