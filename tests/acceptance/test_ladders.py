"""Ladders of any length and any names: the order is kept, MLflow's aliases follow, every refusal says what to do."""

from __future__ import annotations

import pytest

from mlplatform.control import Platform
from mlplatform.errors import IllegalMove
from tests.small_project import MODEL, Place

STAGES = ("dev", "qa-1", "pre_prod", "canary-eu", "prod-eu")
POLICY = f"""
model  = "churn"
ladder = {list(STAGES)}

[data]
target = "y"
time   = "at"
""".replace("'", '"')


@pytest.fixture
def climbing(sqlite_place: Place) -> Place:
    """The project under a ladder of five stages, none of which a version holds; no gates, no endpoint."""
    (sqlite_place.folder / "policy.toml").write_text(POLICY)
    return sqlite_place


def aliases(platform: Platform) -> dict[str, int]:
    """In MLflow, of the ladder's stages."""
    found = platform.world.registry.outside(MODEL).aliases
    return {stage: number for stage, number in found.items() if stage in STAGES}


def climb(platform: Platform, number: int, stages: tuple[str, ...]) -> None:
    for stage in stages:
        outcome = platform.promote(f"{MODEL}@{number}", stage, "up")
        assert outcome.status == "done", outcome


def test_five_stages_are_climbed_one_by_one_and_mlflow_follows(climbing: Place) -> None:
    with climbing.opened() as platform:
        climb(platform, 4, STAGES)
        assert aliases(platform) == {"prod-eu": 4}
        climb(platform, 3, STAGES[:3])
        assert aliases(platform) == {"prod-eu": 4, "pre_prod": 3}
        climb(platform, 3, STAGES[3:])
        assert aliases(platform) == {"prod-eu": 3}
        assert platform.world.ledger.standings(MODEL).place(4) == "RETIRED"
        platform.rollback(MODEL, "prod-eu", "worse")
        assert aliases(platform) == {"prod-eu": 4}
        platform.retire(f"{MODEL}@prod-eu", "the end")
        assert aliases(platform) == {}
        assert platform.differences(MODEL) == []
        held = [(s.stage, s.version) for s in platform.spells(MODEL) if s.stage in STAGES]
        assert held == [
            *((stage, 4) for stage in STAGES),
            *((stage, 3) for stage in STAGES),
            ("prod-eu", 4),
        ]


def test_every_pair_of_stages_but_the_next_one_is_refused(climbing: Place) -> None:
    with climbing.opened() as platform:
        for position, stage in enumerate(STAGES):
            for target in STAGES:
                if target != stage:
                    with pytest.raises(IllegalMove):
                        platform.promote(f"{MODEL}@4", target, "jump", break_glass=True)
            climb(platform, 4, (stage,))
            assert aliases(platform) == {stage: 4}, position


def test_each_refusal_is_one_sentence_with_the_next_step(climbing: Place) -> None:
    def refused(stage: str, *words: str) -> list[str]:
        told = climbing.done("promote", f"{MODEL}@4", stage, "--reason", "up", *words, code=3)
        return told.strip().splitlines()

    assert refused("pre_prod", "--break-glass") == [
        "churn@4 cannot go from CANDIDATE to pre_prod: the next stage is dev",
        "Stages are climbed one by one: mlplatform promote churn@4 dev --reason ...",
    ]
    climbing.done("promote", f"{MODEL}@4", "dev", "--reason", "up")
    climbing.done("promote", f"{MODEL}@4", "qa-1", "--reason", "up")
    assert refused("qa-1") == [
        "churn@4 cannot go from qa-1 to qa-1: it is there already",
        "Nothing is left to do; mlplatform show churn@4 tells who put it there.",
    ]
    assert refused("dev") == [
        "churn@4 cannot go from qa-1 to dev: it is above it, in qa-1",
        "Take it out of qa-1: mlplatform rollback churn --stage qa-1 --reason ...",
    ]
    climbing.done("retire", f"{MODEL}@4", "--reason", "away")
    assert refused("dev")[0] == (
        "churn@4 cannot go from RETIRED to dev: it was replaced; bring it back with `mlplatform rollback --to`"
    )
    told = climbing.done("promote", f"{MODEL}@4", "qa_1", "--reason", "up", code=2)
    assert "There is no stage named 'qa_1'" in told
    assert "Did you mean 'qa-1'?" in told


@pytest.mark.parametrize(
    ("ladder", "mistake"),
    [
        (
            '["prod-eu", "prod_eu"]',
            "stages 'prod-eu' and 'prod_eu' are too alike for aliases in MLflow; rename one of them",
        ),
        ('["prod", "Prod"]', "stage 'Prod': write lower-case letters, digits, - and _"),
        ('["qa", "qa"]', "stages 'qa' and 'qa' are too alike"),
        ('["latest"]', "stage 'latest': MLflow reserves this alias; choose another name"),
        ('["v7"]', "stage 'v7': MLflow reserves this alias; choose another name"),
        ("[]", "a ladder needs at least one stage"),
        (f'["{"s" * 64}"]', "at most 63 of them"),
    ],
)
def test_ladders_that_mlflow_or_people_would_confuse(climbing: Place, ladder: str, mistake: str) -> None:
    (climbing.folder / "policy.toml").write_text(f'model = "churn"\nladder = {ladder}\n')
    told = climbing.done("policy", "check", code=2)
    assert "line 2: ladder: " in told
    assert mistake in told
