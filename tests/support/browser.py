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
from playwright.sync_api import Locator, Page, expect, sync_playwright

PICTURES = ROOT / "docs" / "pictures"
WIDTH, HEIGHT = 1280, 800
MARGIN = 2

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


def picture(page: Page, name: str, last: Locator | None = None) -> None:
    """Take a picture for README.md, down to the end of what is last in it, when PICTURES=1 asks for it."""
    if not os.environ.get("PICTURES"):
        return
    image = Image.open(io.BytesIO(settled(page))).convert("RGB")
    box = last.bounding_box() if last else None
    if box:
        image = image.crop((0, 0, image.width, min(image.height, round(box["y"] + box["height"]) + MARGIN)))
    PICTURES.mkdir(parents=True, exist_ok=True)
    # A palette makes a third of the bytes; this method keeps rare colours, a red month among green ones, as they are.
    image = image.quantize(method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    image.save(PICTURES / f"{name}.png", optimize=True)


def settled(page: Page) -> bytes:
    """What the page shows when nothing moves any more: when two looks, a moment apart, are the same."""
    before = b""
    now: bytes = page.screenshot()
    for _ in range(SETTLED_LOOKS):
        if now == before:
            break
        page.wait_for_timeout(SETTLED_MS)
        before, now = now, page.screenshot()
    return now


def drag(page: Page, handle: Locator, right: float) -> None:
    """Drag something to the right, by so many pixels, at a place where no button lies on it."""
    box = handle.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.8
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right, y, steps=5)
    page.mouse.up()
