"""The manifest of a package: what it holds, in one text that can be written in only one way.

The content id is a hash of what the manifest says, so that it does not depend on how the package is compressed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bfo_diag.archive.names import MANIFEST, PackageError, clash, fault_of_file, fault_of_name, header, visible
from bfo_diag.archive.text import json_fault
from bfo_diag.records import JSONValue, decode, encode

SCHEMA = 1
_VALUES = 100_000  # values in a manifest: a bound of what the JSON reader builds
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Limits:
    """What a reader takes at most. The ratio counts only once more than `free_bytes` came out."""

    files: int = 10_000
    total_bytes: int = 4 << 30
    file_bytes: int = 4 << 30
    manifest_bytes: int = 4 << 20
    free_bytes: int = 64 << 20
    ratio: int = 400


LIMITS = Limits()


@dataclass(frozen=True)
class Listed:
    """A file as the manifest lists it."""

    path: str
    bytes: int
    sha256: str

    @classmethod
    def from_json(cls, data: JSONValue) -> Listed:
        """Read an element of `files`.

        Raises:
            PackageError: it is not well formed, or a package can't hold such a file.
        """
        if not isinstance(data, dict) or set(data) != {"path", "bytes", "sha256"}:
            raise PackageError("an entry of the manifest is not path, bytes and sha256")
        path, size, sha256 = data["path"], data["bytes"], data["sha256"]
        if not isinstance(path, str) or type(size) is not int or size < 0 or not isinstance(sha256, str):
            raise PackageError("an entry of the manifest has a value of the wrong type")
        if fault := fault_of_file(path):
            raise PackageError(f"the manifest lists {visible(path)}, which {fault}")
        if not _SHA256.fullmatch(sha256):
            raise PackageError(f"the manifest lists {visible(path)} with what is no sha256")
        return cls(path, size, sha256)


@dataclass(frozen=True)
class Manifest:
    """Name, content and purpose of a package; `about` is what its writer said, and no more true than that."""

    name: str
    files: tuple[Listed, ...]
    about: Mapping[str, JSONValue] = field(default_factory=dict)

    def _claims(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "name": self.name,
            "about": encode(self.about),
            "files": [dict(vars(listed)) for listed in self.files],
        }

    @property
    def content_id(self) -> str:
        """The sha256 of all that the manifest says."""
        canonical = json.dumps(self._claims(), allow_nan=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the text of `MANIFEST.json`."""
        body = {**self._claims(), "content_id": self.content_id}
        return (json.dumps(body, allow_nan=False, sort_keys=True, indent=1) + "\n").encode()

    def check(self, limits: Limits = LIMITS) -> None:
        """Check what holds for all files together.

        Raises:
            PackageError: the limits, the order, the names or their places in a header are against it.
        """
        fault = fault_of_name(self.name) or ("has more than one component" if "/" in self.name else "")
        if fault:
            raise PackageError(f"the name {visible(self.name)} of the package {fault}")
        if len(self.files) > limits.files:
            raise PackageError(f"the manifest lists {len(self.files)} files, more than {limits.files}")
        large = next((listed for listed in self.files if listed.bytes > limits.file_bytes), None)
        if large is not None:
            raise PackageError(f"{visible(large.path)} is larger than {limits.file_bytes} bytes")
        if sum(listed.bytes for listed in self.files) > limits.total_bytes:
            raise PackageError(f"the files together are larger than {limits.total_bytes} bytes")
        paths = [listed.path for listed in self.files]
        if pair := clash([MANIFEST, *paths]):
            raise PackageError(f"two names are one on some disks: {visible(pair[0])} and {visible(pair[1])}")
        if paths != sorted(paths):
            raise PackageError("the files of the manifest are not in the order of their paths")
        for listed in self.files:
            header(f"{self.name}/{listed.path}", listed.bytes)

    @classmethod
    def from_bytes(cls, data: bytes, limits: Limits = LIMITS) -> Manifest:
        """Read what `to_bytes` wrote, and nothing else.

        Raises:
            PackageError: the text is not strict JSON, not of this schema, not well formed or beyond the limits.
        """
        if len(data) > limits.manifest_bytes:
            raise PackageError(f"the manifest is larger than {limits.manifest_bytes} bytes")
        if not data.isascii():
            raise PackageError("the manifest is not ASCII")
        if fault := json_fault(data):
            raise PackageError(f"the manifest is {fault}")
        if sum(map(data.count, (b",", b"[", b"{"))) > _VALUES:
            raise PackageError(f"the manifest holds more than {_VALUES} values")
        manifest, content_id = cls._from_json(json.loads(data))
        manifest.check(limits)
        if content_id != manifest.content_id:
            raise PackageError(f"the manifest says content {visible(str(content_id))}, it is {manifest.content_id}")
        if manifest.to_bytes() != data:
            raise PackageError("the manifest is not written in its one form")
        return manifest

    @classmethod
    def _from_json(cls, body: JSONValue) -> tuple[Manifest, JSONValue]:
        """Return the manifest and the content id that it claims to have."""
        if not isinstance(body, dict):
            raise PackageError("the manifest is no JSON object")
        if type(body.get("schema")) is not int or body["schema"] != SCHEMA:
            raise PackageError(
                f"the manifest has the schema {visible(repr(body.get('schema')))}, this version reads {SCHEMA}",
                mend="read it with the version of bfo-diag that wrote it",
            )
        if set(body) != {"schema", "name", "content_id", "about", "files"}:
            raise PackageError("the manifest does not hold schema, name, content_id, about and files, and no more")
        name, about, files = body["name"], body["about"], body["files"]
        if not isinstance(name, str) or not isinstance(about, dict) or not isinstance(files, list):
            raise PackageError("the manifest holds a value of the wrong type")
        try:
            about = decode(about)
        except (TypeError, ValueError, OverflowError) as error:
            raise PackageError("what the manifest says about the package holds a wrong $float") from error
        if not isinstance(about, dict):
            raise PackageError("what the manifest says about the package is no JSON object")
        return cls(name, tuple(map(Listed.from_json, files)), about), body["content_id"]
