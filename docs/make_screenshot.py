"""Take docs/images/report.png from a real review, as the README shows it; needs the test extra and Debian's chromium.

python docs/make_screenshot.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

TARGET = "lost_gradient.py:train_step"
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
IMAGE = Path(__file__).parent / "images" / "report.png"
SIZE = {"width": 1080, "height": 860}


def main() -> None:
    """Review the example and photograph the top of its page."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="project-") as folder:
        shutil.copytree(EXAMPLES, folder, dirs_exist_ok=True)
        command = [sys.executable, "-m", "bfo_diag", "review", TARGET, "--name=shown", f"--workspace={folder}"]
        subprocess.run(command, cwd=folder, check=False, env={**os.environ, "PYTHONSAFEPATH": "1"})
        page = Path(folder, "review_packages", "shown.html")
        text = page.read_text("utf-8")
        page.write_text(text.replace(folder, "/project"), "utf-8")
        with sync_playwright() as playwright:
            arguments = ["--no-sandbox", "--disable-gpu"]
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
            shown = browser.new_page(viewport=SIZE, color_scheme="light")
            shown.goto(page.as_uri())
            shown.screenshot(path=IMAGE)
            browser.close()


if __name__ == "__main__":
    main()
