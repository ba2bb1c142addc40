"""What may be wrong with a benchmark, or with what a compiled step computes."""

from bfo_diag.findings import Entry
from bfo_diag.records import Severity

ENTRIES = (
    Entry(
        "BENCH-NOISY",
        Severity.WARNING,
        why="the A/A control, the same step under two names, is off by more than 5 %, or its interval reaches 20 % "
        "far: other work disturbs the timing.",
        fix="stop what else runs, pin the threads (OMP_NUM_THREADS), or give it more --processes and --seconds",
        of_the_machine=True,
    ),
    Entry(
        "BENCH-RESULT-DIFFERS",
        Severity.ERROR,
        why="the compiled step comes to another state than the eager one, by more than rounding explains.",
        fix="look for what the graph can't see (a global, an in-place change, a hook); --modes backend:aot_eager and "
        "backend:eager tell which stage changes it",
    ),
    Entry(
        "BENCH-OTHER-STREAM",
        Severity.NOTE,
        why="compiled code draws its random numbers in another way: other numbers, of the same distribution.",
        fix="nothing; for the same numbers torch._inductor.config.fallback_random = True, at some cost",
    ),
    Entry(
        "BENCH-NO-REFERENCE",
        Severity.NOTE,
        why="the step does not run in float64, so that there is no reference between eager and compiled.",
        fix="nothing; the modes are compared with eager, at a tolerance of 1e-3",
    ),
    Entry(
        "BENCH-MODE-FAILED",
        Severity.WARNING,
        why="the mode raised or died in its first steps, and was left out.",
        fix="bfo-diag compile on the same target shows why",
    ),
    Entry(
        "BENCH-NEVER-SETTLED",
        Severity.WARNING,
        why="the step is compiled again and again, so that there is no steady state to time.",
        fix="bfo-diag compile on the same target shows the guard that fails",
    ),
    Entry(
        "BENCH-NOT-COMPILED",
        Severity.WARNING,
        why="nothing was compiled, so that eager is compared with itself.",
        fix="bfo-diag compile on the same target shows why",
    ),
    Entry(
        "BENCH-SLOWER",
        Severity.NOTE,
        why="the compiled step takes longer than the eager one.",
        fix="leave it eager, or mend the breaks that bfo-diag compile shows",
    ),
    Entry(
        "BENCH-NO-CUDAGRAPHS",
        Severity.NOTE,
        why="the mode asks for CUDA graphs, and they were not applied: it is the default mode by another name.",
        fix="run on a CUDA device; TORCH_LOGS=perf_hints tells why a graph was skipped",
    ),
)
