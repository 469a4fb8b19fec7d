"""What a reviewer sees: the card on MLflow's own version page, in a real browser on a real server."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo_story import Told

pytestmark = pytest.mark.timeout(600)
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@pytest.fixture
def mlflow_ui(demo: Told) -> Iterator[str]:
    """The address of MLflow's UI, as `mlplatform up` starts it."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "mlplatform", "up"],
        cwd=demo.folder,
        env=demo.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://[\d.:]+", line)
    try:
        assert found, line
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_the_card_is_on_the_version_page(mlflow_ui: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1500})
        page.goto(f"{mlflow_ui}/#/models/digits/versions/4")
        page.wait_for_selector("text=Gates of production: PASS", timeout=60_000)
        text = page.inner_text("body")
        page.screenshot(path=tmp_path / "card.png")
        browser.close()
    assert "production" in text
    assert "no_regression" in text
    assert "onnx+dynamic_int8 of digits@3" in text
    assert "rolled back" in text
    assert (tmp_path / "card.png").stat().st_size > 20_000
