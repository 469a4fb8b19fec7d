from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mlplatform.config.policy_file import load_policy
from mlplatform.config.settings import load_settings
from mlplatform.config.templates import FILES, write_project
from mlplatform.errors import UsageError


def test_a_new_project_is_whole_and_valid(tmp_path: Path) -> None:
    written = write_project(tmp_path / "new", "churn.v2")
    assert {path.name for path in written} == set(FILES)
    settings = load_settings(tmp_path / "new", {})
    policy = load_policy(settings.policies[0])
    assert (policy.model, policy.live_stage) == ("churn.v2", "production")
    assert policy.stage("production").endpoint.name == "churn-v2"  # type: ignore[union-attr]
    ast.parse((tmp_path / "new" / "train.py").read_text())
    assert not any("{{" in path.read_text() for path in written)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("mine")
    with pytest.raises(UsageError, match=r"already has train.py"):
        write_project(tmp_path, "churn")
    assert (tmp_path / "train.py").read_text() == "mine"
    assert not (tmp_path / "policy.toml").exists()


def test_a_bad_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model 'a/b'"):
        write_project(tmp_path / "new", "a/b")
    assert not (tmp_path / "new").exists()
