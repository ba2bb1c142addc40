"""bfo-diag: why a PyTorch training step gets no gradient or does not compile, and whether compiling it pays.

`Case` is what a factory of yours returns for the command line to examine.
"""

from bfo_diag.records import Case

__all__ = ["Case"]
