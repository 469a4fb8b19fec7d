"""The monitoring report: one file that holds all it shows, says what the windows say, and trusts no text."""

from __future__ import annotations

import json
import math
import re
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from mlplatform.domain.verdict import Measurement
from mlplatform.domain.watch import Action, Decision, Signal, State, Window
from mlplatform.report import facts
from mlplatform.report.page import NEWEST, monitor_report

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


def drift_signal(sizes: dict[str, float | None], drifted: Sequence[str] = ()) -> Signal:
    columns = [
        {
            "column": name,
            "kind": "numeric",
            "drifted": name in drifted,
            "distance": size,
            "psi": None,
            "mean_shift_sigma": 0.1,
            "null_share_reference": 0.0,
            "null_share_current": 0.25,
            "p_value": 0.5,
        }
        for name, size in sizes.items()
    ]
    state = State.ALARM if drifted else State.OK
    return Signal("drift", state, f"{len(drifted)} columns drifted", details={"columns": columns})


def quality_signal(value: float | None, state: State = State.OK, better: bool = True) -> Signal:
    seen = (Measurement("accuracy", value, value - 0.02, value + 0.02, 200),) if value is not None else ()
    known = (Measurement("estimated_accuracy", 0.88), Measurement("reference_accuracy", 0.9))
    details = {"measure": "accuracy", "drop": 0.05, "alpha": 0.01, "higher_is_better": better}
    return Signal("quality", state, f"accuracy {value}", True, (*seen, *known), details)


def windows(
    signals: Sequence[Sequence[Signal]], actions: Sequence[Action] = ()
) -> list[tuple[Window, Decision]]:
    out = []
    for i, some in enumerate(signals):
        start = START + i * HOUR
        window = Window("shop", "shop", start, start + HOUR, 1 + i // 2, 200, 150, tuple(some))
        action = actions[i] if actions else Action.KEEP
        out.append((window, Decision(action, f"reason {i}", window.end)))
    return out


SOME = windows(
    [
        [drift_signal({"a": 0.1, "b": 0.5}, ["b"]), quality_signal(0.91)],
        [drift_signal({"a": None, "b": 0.6}, ["b"]), quality_signal(None, State.UNKNOWN)],
        [drift_signal({"a": 0.2, "b": 0.7}, ["b"]), quality_signal(0.7, State.ALARM)],
    ],
    [Action.ALERT, Action.KEEP, Action.RETRAIN],
)


class Reader(HTMLParser):
    """Tags, their attributes, and the text outside of styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def svg_texts(page: str) -> list[ElementTree.Element]:
    sources = [str(image["src"]) for image in Reader(page).all("img")]
    return [ElementTree.fromstring(b64decode(source.partition("base64,")[2])) for source in sources]


def test_the_page_says_what_the_windows_say() -> None:
    words = Reader(monitor_report(SOME, "shop")).words
    for text in (
        "shop",
        "RETRAIN",
        "reason 2",
        "2026-03-01 10:00",
        "1 columns drifted",
        "accuracy 0.7",
        "600",
    ):
        assert text in words
    assert "75% labelled" in words
    assert "1 of 2 windows clearly worse" in words


def test_the_newest_window_comes_first_in_the_table() -> None:
    page = monitor_report(SOME, "shop")
    table = page[page.index(">Windows</h2>") :]
    assert table.index("2026-03-01 10:00") < table.index("2026-03-01 08:00")


def test_the_page_is_well_formed_and_needs_no_other_file() -> None:
    page = monitor_report(SOME, "shop")
    reader = Reader(page)
    assert not reader.open
    assert not reader.all("script") + reader.all("link") + reader.all("iframe")
    assert all(str(image["src"]).startswith("data:image/svg+xml;base64,") for image in reader.all("img"))
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:|//)""", page)


def test_plots_are_drawings_with_a_text_for_those_who_do_not_see_them() -> None:
    page = monitor_report(SOME, "shop")
    drawings = svg_texts(page)
    assert len(drawings) == 2
    assert all(drawing.tag.endswith("svg") for drawing in drawings)
    alternatives = [str(image["alt"]) for image in Reader(page).all("img")]
    assert "between 0.700 and 0.910, newest 0.700; 1 alarms" in alternatives[0]
    assert "b" in alternatives[1]
    assert [attributes.get("lang") for attributes in Reader(page).all("html")] == ["en"]


def test_the_same_windows_give_the_same_page() -> None:
    assert monitor_report(SOME, "shop") == monitor_report(SOME, "shop")


EVIL = '<script>alert("x")</script>$\\alpha$&amp;'


def test_text_from_outside_is_shown_not_obeyed() -> None:
    signal = Signal("other", State.ALARM, EVIL)
    evil = windows([[drift_signal({EVIL: 0.4}, [EVIL]), signal]])
    window, decision = evil[0]
    page = monitor_report([(window, Decision(Action.ALERT, EVIL, decision.at))], EVIL)
    reader = Reader(page)
    assert not reader.all("script")
    assert reader.words.count(EVIL) >= 4


def test_without_windows_the_page_says_what_to_do() -> None:
    reader = Reader(monitor_report([], "shop"))
    assert "No windows yet" in reader.words
    assert "mlplatform monitor" in reader.words
    assert not reader.all("img")


@pytest.mark.parametrize(
    "signals",
    [
        [[]],
        [[quality_signal(None, State.UNKNOWN)]],
        [[drift_signal({"a": None})]],
        [[], [quality_signal(0.9)], []],
        [[drift_signal({"a": 0.1})], [drift_signal({"b": 0.2})]],
        [[Signal("quality", State.UNKNOWN, "no reference", True, (), {"measure": "auc"})]],
    ],
)
def test_gaps_are_drawn_as_gaps(signals: list[list[Signal]]) -> None:
    reader = Reader(monitor_report(windows(signals), "shop"))
    assert not reader.open
    assert "nan" not in reader.words.lower()
    assert reader.all("img")


def test_names_in_any_script_are_drawn() -> None:
    page = monitor_report(windows([[drift_signal({"价格": 0.4, "цена": 0.1})]]), "магазин")
    assert "价格" in "".join(svg_texts(page)[-1].itertext())


def test_many_windows_and_columns_are_cut_to_what_can_be_read() -> None:
    sizes = {f"column {i:03d}": i / 100 for i in range(60)}
    page = monitor_report(windows([[drift_signal(sizes)]] * (NEWEST + 7)), "shop")
    assert "7 earlier ones" in page
    assert f"{60 - facts.WORST_COLUMNS} more changed less" in page
    assert len(page) < 3_000_000


# ---- facts


def test_quality_keeps_its_gaps_and_its_limit() -> None:
    (quality,) = facts.qualities(SOME)
    assert np.array_equal(quality.value, [0.91, math.nan, 0.7], equal_nan=True)
    assert quality.limit.tolist() == pytest.approx([0.85] * 3)
    assert quality.alarm.tolist() == [False, False, True]
    assert quality.confidence == pytest.approx(0.98)


def test_the_limit_of_a_loss_lies_above_its_reference() -> None:
    (quality,) = facts.qualities(windows([[quality_signal(0.9, better=False)]]))
    assert quality.limit[0] == pytest.approx(0.95)


def test_drift_shows_the_most_changed_columns_first() -> None:
    drift = facts.drift(SOME)
    assert drift is not None
    assert drift.columns == ("b", "a")
    assert np.array_equal(drift.size, [[0.5, 0.6, 0.7], [0.1, math.nan, 0.2]], equal_nan=True)
    assert drift.drifted.tolist() == [[True] * 3, [False] * 3]


def test_windows_that_were_stored_as_json_are_read_alike() -> None:
    again = []
    for window, decision in SOME:
        d = json.loads(json.dumps(asdict(window), default=str))
        signals = tuple(
            Signal(
                s["metric"],
                State(s["state"]),
                s["because"],
                s["retrain"],
                tuple(Measurement(**m) for m in s["measurements"]),
                s["details"],
            )
            for s in d["signals"]
        )
        again.append((Window(**{**window.__dict__, "signals": signals}), decision))
    assert monitor_report(again, "shop") == monitor_report(SOME, "shop")
