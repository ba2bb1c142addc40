"""Draw docs/images/gradients.svg from a real run, as the README shows it.

python docs/make_screenshot.py
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bfo_diag import report, runner
from bfo_diag.probes import load_all
from bfo_diag.render import console as rendering
from bfo_diag.workspace import Workspace

TARGET = "examples/lost_gradient.py:train_step"
IMAGE = Path(__file__).parent / "images" / "gradients.svg"


def main() -> None:
    """Run the example and export what the terminal shows."""
    probe = load_all()["gradients"]
    out = Console(record=True, width=110, file=io.StringIO(), force_terminal=True, highlight=False, markup=False)
    with tempfile.TemporaryDirectory() as folder:
        options = {"mode": "all", "scenario": "all", "steps": 3, "evaluations": 200}
        _, run = runner.run(runner.Job(probe=probe, target=TARGET, options=options), Workspace.find(Path(folder)))
    found = report.findings(run, probe)
    out.print(Text(f"$ bfo-diag gradients {TARGET}", style="bold"))
    rendering.show(report.build(run, probe, found), out)
    svg = out.export_svg(title="bfo-diag gradients")
    IMAGE.write_text(svg.replace(str(Path.cwd()) + "/", "").replace(str(Path.cwd()), ""), "utf-8")


if __name__ == "__main__":
    main()
