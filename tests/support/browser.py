"""Headless Chromium, for tests that open a page as a user does."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest


def visit(address: str, width: int, folder: Path, *options: str) -> tuple[str, list[str]]:
    """Return the DOM of the page at `address`, loaded at `width` pixels, and its console messages.

    `folder` is for the browser's profile, `options` are further ones of Chromium.
    """
    command: Sequence[str] = [
        _chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900",
        "--enable-logging=stderr", "--v=0", *options, "--dump-dom", address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def _chromium() -> str:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None and os.environ.get("CI") == "true":
        pytest.fail("chromium is not installed; `apt-get install chromium`")
    if browser is None:
        pytest.skip("chromium is not installed")
    return browser
