"""Chromium for tests of pages, driven by Playwright."""

import gc
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import pytest


def browser() -> Iterator[Any]:
    """A fixture: a browser without a window. Skips where Playwright or Chromium is missing."""
    tool = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (extra dev)")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed (Debian's package chromium)")
    with warnings.catch_warnings():  # Playwright leaves its event loop to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        with tool.sync_playwright() as running:
            started = running.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            yield started
            started.close()
        gc.collect()
