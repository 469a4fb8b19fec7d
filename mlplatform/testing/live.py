"""Facts for judges of a rollout: ordinary ones, and every awkward one that a judge has to survive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mlplatform.domain.counts import BUCKETS_S, Counts, Split
from mlplatform.domain.steps import Bake
from mlplatform.ports.extensions import LiveFacts
from mlplatform.testing.subjects import make_version


def make_counts(requests: int, failed: int = 0, bucket: int = 3, refused: int = 0) -> Counts:
    """So many requests, all in one bucket of the latency histogram."""
    durations = [0] * (len(BUCKETS_S) + 1)
    durations[bucket] = requests
    return Counts(requests - failed - refused, failed, tuple(durations), refused)


def make_facts(rows: int = 2000, seed: int = 0) -> LiveFacts:
    """Of a version that is as good as its incumbent, fully seen."""
    rng = np.random.default_rng(seed)
    answers = rng.integers(0, 2, (4, rows))
    wrong = (rng.random((2, rows)) < 0.1).astype(float)
    return LiveFacts(
        version=make_version(2),
        incumbent=make_version(1),
        step=Bake(0.05),
        alpha=0.005,
        counts=make_counts(rows),
        incumbent_counts=make_counts(19 * rows),
        splits=(Split(0.05, make_counts(rows), make_counts(19 * rows)),),
        grown_bytes=1_000_000,
        outputs=answers[0],
        incumbent_outputs=answers[1],
        pairs=answers[2],
        incumbent_pairs=answers[2],
        losses=wrong[0],
        incumbent_losses=wrong[1],
    )


def awkward_facts() -> Mapping[str, LiveFacts]:
    """By what is awkward about them."""
    whole, nothing = make_facts(), np.empty(0)
    found = {f"{rows} rows": make_facts(rows) for rows in (1, 2, 30)}
    shadow = Split(0.0, make_counts(300, refused=2), make_counts(400, refused=100))
    found["shadow"] = replace(whole, step=Bake(0.0), incumbent_counts=Counts(), splits=(shadow,))
    found["only failures"] = replace(whole, counts=make_counts(50, failed=50), restarts=3)
    refusing = make_counts(50, refused=50)
    found["only refusals"] = replace(
        whole,
        counts=refusing,
        splits=(shadow, Split(0.05, refusing, refusing), Split(0.25, Counts(), Counts())),
    )
    found["slower than every bound"] = replace(whole, counts=make_counts(500, bucket=len(BUCKETS_S)))
    found["an incumbent that nobody asked"] = replace(
        whole,
        incumbent_counts=Counts(),
        incumbent_outputs=nothing,
        splits=(Split(0.05, whole.counts, Counts()),),
    )
    names = np.array(["no", "yes"], dtype=object)
    found["text labels"] = replace(
        whole,
        outputs=names[whole.outputs],
        incumbent_outputs=names[whole.incumbent_outputs],
        pairs=names[whole.pairs],
        incumbent_pairs=names[whole.incumbent_pairs],
    )
    values = np.random.default_rng(1).normal(size=(3, 400))
    found["a regression"] = replace(
        whole,
        kind="regression",
        outputs=values[0],
        incumbent_outputs=values[1],
        pairs=values[2],
        incumbent_pairs=values[2] + 0.01,
        losses=np.abs(values[0]),
        incumbent_losses=np.abs(values[0]),
    )
    found["constant values"] = replace(
        found["a regression"], pairs=np.ones(300), incumbent_pairs=np.ones(300), outputs=np.ones(300)
    )
    return found


def no_facts() -> LiveFacts:
    """Nothing was seen yet."""
    return LiveFacts(make_version(2), make_version(1), Bake(0.05), 0.005)
