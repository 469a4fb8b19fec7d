"""What a reviewer sees in MLflow's own UI: the card, its picture, the report behind it, and no markup of people's own.

`MLPLATFORM_SCREENSHOTS=docs/images python -m pytest tests/browser` renews the pictures of the documents.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FloatRect, Page, sync_playwright

from mlplatform.domain.approval import Approval, Tally
from mlplatform.tracking.card import render_card
from mlplatform.tracking.client import Mlflow
from mlplatform.tracking.registry import MlflowRegistry
from tests.demo_story import Told
from tests.mlflow_stores import make_template, run_with_model, running_server
from tests.unit.tracking.test_card import FACTS, NOW, RUDE

pytestmark = pytest.mark.timeout(600)
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as browsers:
        started = browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where pictures go."""
    return Path(os.environ.get("MLPLATFORM_SCREENSHOTS") or tmp_path)


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


def test_the_card_leads_to_the_report(mlflow_ui: str, browser: Browser, shots: Path) -> None:
    page = browser.new_page(viewport={"width": 1340, "height": 1150})
    page.goto(f"{mlflow_ui}/#/models/digits/versions/4")
    page.wait_for_selector("text=Gates of production: PASS", timeout=PATIENCE_MS)
    page.wait_for_function(
        "[...document.images].some(i => i.src.includes('metrics.svg') && i.naturalWidth > 300)"
    )
    text = page.inner_text("body")
    for wanted in ("production", "no_regression", "onnx+dynamic_int8 of digits@3", "rolled back", "Budget"):
        assert wanted in text
    assert page.locator("li", has_text="digits@3").locator("li", has_text="digits@4").count() > 0
    card = page.locator("h3", has_text="digits@4").locator("xpath=..").bounding_box()
    assert card
    _shoot(page, shots / "card.png", FloatRect(x=card["x"] - 16, y=0, width=card["width"] + 32, height=1150))
    with page.context.expect_page() as opened:
        page.click("text=Report")
    report = opened.value
    frame = report.frame_locator("iframe")
    frame.locator("h2", has_text="What kind of errors").wait_for(timeout=PATIENCE_MS)
    assert frame.locator("h1").inner_text() == "digits@4"
    assert frame.locator("img").evaluate_all("all => all.every(i => i.naturalWidth > 100)")
    report.close()


def test_the_report_is_a_page_of_its_own(demo: Told, browser: Browser, shots: Path) -> None:
    (file,) = (demo.folder / ".mlplatform" / "mlartifacts").rglob("digits-4/report.html")
    page = browser.new_page(viewport={"width": 1120, "height": 900})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert page.locator("h1").inner_text() == "digits@4"
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    _shoot(page, shots / "report.png")


def test_what_people_type_stays_text_in_mlflows_ui(browser: Browser, tmp_path: Path) -> None:
    good = Approval(RUDE, False, NOW, RUDE, "production", "d", "e", "p")
    finding = FACTS.findings[0]
    draft = FACTS.entries[0].draft
    card = render_card(
        replace(
            FACTS,
            findings=(replace(finding, because=RUDE, gate=RUDE),),
            entries=(replace(FACTS.entries[0], draft=replace(draft, reason=RUDE)),),
            approvals={"production": Tally((good,), ((good, RUDE),), 1)},
            version=replace(FACTS.version, author=RUDE, cause=RUDE),
        )
    )
    (tmp_path / "template").mkdir()
    with running_server(tmp_path, make_template(tmp_path / "template")) as store:
        _register(store, tmp_path)
        MlflowRegistry(store).project("churn", {"production": 1}, {1: card})
        page = browser.new_page()
        page.goto(f"{store.uri}/#/models/churn/versions/1")
        heading = page.locator("h3", has_text="churn@7")
        heading.wait_for(timeout=PATIENCE_MS)
        shown = heading.locator("xpath=..")
        assert shown.locator("a, img, script, em, del, h1, iframe").count() == 0
        code = shown.locator("code").all_inner_texts()
        assert not [text for text in code if "code" in text], "backticks of a person made code"
        text = shown.inner_text()
        assert text.count("<script>alert(1)</script>") >= 5 and "https://evil.example" in text
        assert shown.locator("td", has_text="a | b").count() >= 2


def _register(store: Mlflow, folder: Path) -> None:
    run_id = run_with_model(store, folder)
    assert MlflowRegistry(store).create("churn", run_id, "first") == 1


def _shoot(page: Page, path: Path, clip: FloatRect | None = None) -> None:
    page.screenshot(path=path, clip=clip)
    assert 20_000 < path.stat().st_size < 200_000, f"{path.name} has {path.stat().st_size} bytes"
