"""A real browser of this machine, and the pictures that are taken of it."""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

PICTURES = ROOT / "docs" / "pictures"
COLOURS = 64  # enough for a flat page, and a third of the bytes
WIDTH, HEIGHT = 1280, 800

STEP_SECONDS = 60  # on a busy machine
SETTLED_MS, SETTLED_LOOKS = 700, 20

OPTIONS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # What a browser asks the internet for by itself.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str:
    """The browser's program; without one there is no walk."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.exit("make test-ui needs Chromium, and none was found. Debian, Ubuntu: apt-get install chromium", 1)


@contextmanager
def opened(program: str, last: Path) -> Iterator[Page]:
    """A window; what it showed last is kept in a file."""
    options = [*OPTIONS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    expect.set_options(timeout=STEP_SECONDS * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(STEP_SECONDS * 1000)
        try:
            yield page
        finally:
            page.screenshot(path=last)
            print(f"\nwhat the browser showed last: {last}")
            browser.close()


def picture(page: Page, name: str) -> None:
    """Take a picture for README.md, when PICTURES=1 asks for it."""
    if not os.environ.get("PICTURES"):
        return
    PICTURES.mkdir(parents=True, exist_ok=True)
    image = Image.open(io.BytesIO(settled(page))).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(PICTURES / f"{name}.png", optimize=True)


def settled(page: Page) -> bytes:
    """What the page shows when nothing moves any more: when two looks, a moment apart, are the same."""
    before, now = b"", page.screenshot()
    for _ in range(SETTLED_LOOKS):
        if now == before:
            break
        page.wait_for_timeout(SETTLED_MS)
        before, now = now, page.screenshot()
    return now
