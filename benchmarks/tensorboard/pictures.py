"""Pictures of a TensorBoard: ``python -m benchmarks.tensorboard.pictures LOGDIR --out docs``.

Needs Chromium (Debian and Ubuntu: ``apt-get install chromium``) and Pillow, which comes with
matplotlib. Starts a TensorBoard of LOGDIR on loopback, opens its pages in the browser, without a
window, and writes one PNG of each.
"""

import argparse
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.tensorboard.server import served
from greatmeta_dist.errors import require

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_MS = 30_000
"""How long a page may take to draw, in the browser's own time, which runs ahead of ours."""
TIMEOUT_S = 180
COLOURS = 64
"""Of a picture: a page has few, and fewer make a smaller file."""
MAX_BYTES = 200_000


@dataclass(frozen=True)
class Page:
    """A page of TensorBoard, and what is shown of it."""

    name: str
    """The picture's, without its end."""
    address: str
    """What stands after the server's address."""
    width: int
    height: int
    """Of the window, in pixels."""
    left: int = 0
    """Pixels that are cut off on the left, where TensorBoard has its settings."""


PAGES = (
    Page("tensorboard", "#custom_scalars", 1500, 2060, left=352),
    Page("tensorboard-events", "#text", 1330, 640, left=345),
    Page("tensorboard-hparams", "#hparams", 2150, 360, left=410),
    Page("tensorboard-histograms", "#histograms", 1500, 1010, left=352),
)


def main() -> None:
    """Draw all pages, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logdir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--pages", nargs="*", default=[page.name for page in PAGES])
    options = parser.parse_args()
    require(options.logdir.exists(), f"no folder {options.logdir}; name a run, or a folder of runs")
    browser = find_browser()
    options.out.mkdir(parents=True, exist_ok=True)
    with served(options.logdir) as board:
        board.wait_until(lambda: bool(board.get("plugin/custom_scalars/layout")))
        for page in PAGES:
            if page.name in options.pages:
                path = options.out / f"{page.name}.png"
                draw(page, board.url, path, browser)
                print(f"{path}: {path.stat().st_size} bytes")


def find_browser() -> str:
    """The browser that is installed; raises ``InputError`` where there is none."""
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    require(found is not None, f"none of {', '.join(BROWSERS)} is installed; install chromium")
    assert found is not None
    return found


def draw(page: Page, url: str, path: Path, browser: str) -> None:
    """Write a page's picture."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        command = [
            browser,
            "--headless",
            "--no-sandbox",  # it opens nothing but our own page, and may run as root
            "--enable-unsafe-swiftshader",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
            f"--window-size={page.width},{page.height}",
            f"--virtual-time-budget={PATIENCE_MS}",
            f"--screenshot={shot}",
            f"{url}/{page.address}",
        ]
        subprocess.run(command, capture_output=True, check=True, timeout=TIMEOUT_S)
        with Image.open(shot) as image:
            cut = image.convert("RGB").crop((page.left, 0, image.width, image.height))
            cut.quantize(COLOURS).save(path, optimize=True)
    require(
        path.stat().st_size <= MAX_BYTES,
        f"{path} has {path.stat().st_size} bytes, more than {MAX_BYTES}; take a smaller window",
    )


if __name__ == "__main__":
    main()
