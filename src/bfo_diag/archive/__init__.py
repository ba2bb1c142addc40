"""A review package: one `<name>.tar.gz` of text files that its reader verifies without unpacking anything.

`write` makes one canonical form; the readers take plain files that the manifest lists, whoever packed them, no more.
"""

from bfo_diag.archive.folders import check_folder, unpack
from bfo_diag.archive.manifest import Limits, Listed, Manifest
from bfo_diag.archive.names import MANIFEST, SUFFIXES, PackageError
from bfo_diag.archive.read import Entry, Verification, read_manifest, verify
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
