"""What a real server captured is summed up when it is taken in, and watched by that: the rows say the same."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest

from mlplatform.data.profiles import KEY, Sliced
from mlplatform.flows.intake import profile_then
from mlplatform.flows.monitor import reference_of
from mlplatform.plugins.metrics.drift import DriftMetric
from mlplatform.ports.data import Observed
from mlplatform.ports.extensions import WindowData
from mlplatform.stats.labels import Answers
from mlplatform.stats.profile import profile
from mlplatform.stats.spec import ReferenceSpec
from tests.small_project import MODEL, UNTIL, Place

FEATURES = ("c0", "c1", "c2")


def test_a_window_is_watched_by_what_its_segments_keep(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = sqlite_place.folder / "policy.toml"
    lines = policy.read_text().splitlines()
    lines = ['metrics = [{ use = "drift" }]' if line.startswith("metrics") else line for line in lines]
    policy.write_text("\n".join(lines))
    with sqlite_place.opened() as platform:
        world, version = platform.world, platform.version(f"{MODEL}@2")
        spec = ReferenceSpec.from_dict(profile_then(world, version)["spec"])
        for path in (sqlite_place.servers / MODEL / "segments").glob("rows-*"):
            kept = Sliced.decode(pq.read_metadata(path).metadata[KEY])
            assert {(s.model, s.version, s.cells) for s in kept.slices} == {(MODEL, 2, spec.digest)}
            assert all(tuple(s.profile.columns) == FEATURES for s in kept.slices)

        whole = type(world.observations).read
        looked: list[bool] = []

        def read(*given: object, columns: bool = True, **more: object) -> Observed:
            looked.append(columns and not more.get("labelled"))  # probation answers labelled rows again
            return whole(*given, columns=columns, **more)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(type(world.observations), "read", read)
            loop = platform.monitor(MODEL, datetime.fromisoformat(UNTIL))
        assert looked and not any(looked), "features were read"

        (window, _) = loop.watched.windows[0]
        (signal,) = window.signals
        rows = world.observations.read(MODEL, window.start, window.end, "at", model=MODEL)
        assert (window.version, window.rows, signal.details["rows"]) == (2, rows.rows, rows.rows)
        merged = world.observations.profile(MODEL, spec, 2, window.start, window.end, "at", MODEL)
        again = profile(spec, {name: rows.columns[name] for name in FEATURES})
        for name in FEATURES:
            assert np.array_equal(merged.columns[name].counts, again.columns[name].counts)
        by_rows = WindowData(
            window.start, window.end, 2, rows.columns, Answers(rows.predictions, rows.scores), rows.truth,
            rows.labelled, timedelta(days=30) / (window.end - window.start),
        )  # fmt: skip
        found = DriftMetric().measure(reference_of(world, version), by_rows)
        assert (found.state, found.because) == (signal.state, signal.because)
        for now, then in zip(found.details["columns"], signal.details["columns"], strict=True):
            assert now == {n: pytest.approx(v) if isinstance(v, float) else v for n, v in then.items()}
        assert DriftMetric().measure(reference_of(world, version), replace(by_rows, profile=merged)) == signal
