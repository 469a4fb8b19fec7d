"""A policy file with mistakes stops its own model, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.config.policy_file import load_policy
from mlplatform.config.project_policies import KeptPolicies, ProjectPolicies, read_policies
from mlplatform.errors import BadPolicies, BadPolicy, UnknownName

GOOD = 'model = "{}"\nladder = ["live"]\n'


def read(folder: Path, **texts: str) -> ProjectPolicies:
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    return read_policies([folder / f"{name}.toml" for name in texts])


@pytest.mark.parametrize(
    "text",
    ['model = "fraud"\nladder = ["live"]\nlader = 1\n', 'model = "fraud"\nladder = ["li'],
)
def test_a_mistake_stops_the_model_that_the_file_names(tmp_path: Path, text: str) -> None:
    found = read(tmp_path, churn=GOOD.format("churn"), fraud=text)
    assert found.of("churn").model == "churn"
    with pytest.raises(BadPolicy, match=r"fraud\.toml has 1 mistake"):
        found.of("fraud")
    with pytest.raises(UnknownName):
        found.of("other")
    assert found.maybe("other") is None


def test_a_file_that_names_nobody_may_be_any_models(tmp_path: Path) -> None:
    found = read(tmp_path, churn=GOOD.format("churn"), fraud="[[[")
    assert found.of("churn")
    with pytest.raises(BadPolicy, match=r"fraud\.toml"):
        found.of("other")


def test_of_two_files_for_one_model_neither_counts(tmp_path: Path) -> None:
    found = read(tmp_path, a=GOOD.format("churn"), b=GOOD.format("churn"), c=GOOD.format("fraud"))
    assert set(found.good) == {"fraud"}
    with pytest.raises(BadPolicy, match="has another policy already"):
        found.of("churn")


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    found = read(tmp_path, a="[[[", b='model = "b"\nladder = []\n', c=GOOD.format("churn"))
    with pytest.raises(BadPolicies) as caught:
        found.demand_all()
    assert caught.value.exit_code == 2
    told = "\n".join(caught.value.facts["mistakes"])
    assert str(tmp_path / "a.toml") in told
    assert str(tmp_path / "b.toml") in told


def test_a_policy_is_kept_as_it_was_read_and_not_as_it_is_edited_meanwhile(tmp_path: Path) -> None:
    kept, path = KeptPolicies(tmp_path / "policies"), tmp_path / "churn.toml"
    assert kept.of("churn") is None
    path.write_text(GOOD.format("churn"))
    policy = load_policy(path)
    kept.keep(policy, path)
    assert kept.of("churn") == policy
    for edited in ("[[[", GOOD.format("churn") + "[gc]\nkeep_versions = 9\n"):
        path.write_text(edited)
        kept.keep(policy, path)
        assert kept.of("churn") == policy
    kept.keep(load_policy(path), path)
    changed = kept.of("churn")
    assert changed
    assert changed.gc.keep_versions == 9
    assert [p.name for p in (tmp_path / "policies").iterdir()] == ["churn.toml"]
