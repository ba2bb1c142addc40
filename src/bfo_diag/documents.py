"""The documents of a package: what its reader reads in a file viewer, made from the packed runs alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from bfo_diag import approaches, commands, store
from bfo_diag.findings import Entry, catalogue
from bfo_diag.recorded import Recorded
from bfo_diag.records import Finding
from bfo_diag.render import markdown
from bfo_diag.render.templates import render
from bfo_diag.render.text import clean, clip, safe_url, setting
from bfo_diag.shown import Review

_TESTS = {"gradients": "gradient_modes", "compile": "compile_modes"}
_ENDS = ("raised", "refused", "died", "timed_out", "interrupted")
_TAIL = 4000
_EVIDENCE = 600
"""Characters of a log line in a document; the log has it whole."""
_SPAN = re.compile(r"(`[^`]+`|(?<![\w.`])(?=[\w.]*(?:\b_|_\b))[A-Za-z_]\w*(?:\.\w+)*)")
"""What is code: between backticks, or a name with an underscore at an end of one of its parts (`torch._dynamo`)."""
_MARKUP = re.compile(r"[\\*\[\]<>|`]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[#+=-]|&(?=[#\w]+;)|(?<=^\d)[.)]")


def of(runs: Sequence[Recorded], page: Review, warnings: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the path and text of each document."""
    groups = list(_groups(runs))
    ranking = approaches.ranked(runs)
    ended = [(one, number, observation) for one in runs for number, observation in one.run.of_kind(*_ENDS)]
    lines = [
        (one, "cd src && " * bool(one.sources) + commands.portable_line(one.run.header, one.probe, one.portable_target))
        for one in runs
        if one.portable_target is not None or one.run.header.case.target is None
    ]
    yield (
        "README.md",
        _filled(
            "README",
            page=page,
            setting=setting(page),
            groups=groups,
            commands=lines,
            warnings=warnings,
            ranking=ranking,
        ),
    )
    for code, entry, findings in groups:
        yield f"issues/{store.slug(code)}.md", _filled("issue", key=code, entry=entry, findings=findings)
    bad = {one.run.header.run_id for one, _, _ in ended}
    tails = [
        (one, _tail(one.folder / "raw" / name), name)
        for one in runs
        if one.run.header.run_id in bad
        for name in ("stderr.txt", "stdout.txt")
    ]
    yield "issues/ERROR_LOGS.md", _filled("ERROR_LOGS", ended=ended, tails=tails)
    yield "solutions/PROPOSED_SOLUTIONS.md", _filled("PROPOSED_SOLUTIONS", ranking=ranking)
    yield "solutions/IMPLEMENTATION_EXAMPLES.md", _filled("IMPLEMENTATION_EXAMPLES")
    for probe, name in _TESTS.items():
        yield f"tests/test_{name}.py", render("package/test_modes.py.j2", probe=probe, file=name)


def _filled(name: str, **values: object) -> str:
    """Fill a document; `md`, `code`, `fence` and `link` make data of text that Markdown would read as its own."""
    words = {
        "md": _plain,
        "code": markdown.code,
        "fence": markdown.block,
        "cut": lambda text: clip(text, _EVIDENCE, where="in the log"),
        "link": lambda url: f"<{url}>" if safe_url(url) else markdown.code(url),
        "file_name": store.slug,
    }
    return render(f"package/{name}.md.j2", **words, **values)


def _plain(text: str) -> str:
    """Return data as a line of Markdown that reads well unrendered too: what is in backticks stays as it is."""
    parts = _SPAN.split(" ".join(clean(text).split()))
    parts[1::2] = [part if part.startswith("`") else f"`{part}`" for part in parts[1::2]]
    return "".join(part if index % 2 else _MARKUP.sub(r"\\\g<0>", part) for index, part in enumerate(parts))


def _groups(runs: Sequence[Recorded]) -> Iterator[tuple[str, Entry | None, list[tuple[Recorded, Finding]]]]:
    """Yield the findings of all runs by their code, in the order of the page: the gravest first, then as they came."""
    found: dict[str, list[tuple[Recorded, Finding]]] = {}
    for one in runs:
        for finding in one.findings:
            found.setdefault(finding.code, []).append((one, finding))

    def rank(code: str) -> int:
        return -max(finding.severity.rank for _, finding in found[code])

    for code in sorted(found, key=rank):
        yield code, catalogue().get(code), found[code]


def _tail(path: Path) -> str:
    """Return the end of a raw text, from the start of a line on."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        text = file.read().decode("utf-8", "replace")
    return text if len(text) < _TAIL else text.partition("\n")[2]
