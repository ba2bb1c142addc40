"""A review package: one `<name>.tar.gz` of text files that its reader verifies without unpacking anything.

`write` makes the one canonical form and the readers accept no other: what `write` would not write is refused.
"""

from bfo_diag.archive.manifest import Limits, Listed, Manifest
from bfo_diag.archive.names import MANIFEST, SUFFIXES, PackageError
from bfo_diag.archive.read import Entry, Verification, check_folder, read_manifest, unpack, verify
from bfo_diag.archive.write import write

__all__ = [
    "MANIFEST",
    "SUFFIXES",
    "Entry",
    "Limits",
    "Listed",
    "Manifest",
    "PackageError",
    "Verification",
    "check_folder",
    "read_manifest",
    "unpack",
    "verify",
    "write",
]
