"""Hides who and what a record gives away: homes, users, hosts, secrets, e-mail and private addresses.

One module for each kind of thing finds it; what is found is chosen and replaced in `redactor.py` alone.
"""

from bfo_diag.redact.identity import Identity
from bfo_diag.redact.redactor import Redactor

__all__ = ["Identity", "Redactor"]
