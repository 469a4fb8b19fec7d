from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.config.settings import load_settings, masked
from mlplatform.errors import BadPolicy, NoProject, UnusableHome, UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "mlplatform.toml").write_text("")
    return tmp_path.resolve()


def test_everything_is_embedded_by_default(root: Path) -> None:
    settings = load_settings(root, {})
    assert settings.home == root / ".mlplatform"
    assert settings.tracking_uri == f"sqlite:///{root}/.mlplatform/mlflow.db"
    assert settings.artifact_root == root / ".mlplatform" / "mlartifacts"
    assert settings.database_url == f"sqlite:///{root}/.mlplatform/platform.db"
    assert settings.policies == (root / "policy.toml",)
    assert settings.actor.startswith("os:")


def test_the_project_is_the_nearest_folder_upwards(root: Path) -> None:
    below = root / "a" / "b"
    below.mkdir(parents=True)
    assert load_settings(below, {}).root == root
    (root / "a" / "mlplatform.toml").write_text("")
    assert load_settings(below, {}).root == root / "a"


def test_outside_a_project_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoProject, match=r"No mlplatform.toml in .* or any folder above") as caught:
        load_settings(tmp_path, {})
    assert "mlplatform init" in caught.value.next_step


def test_environment_beats_file_beats_default_and_each_source_is_known(root: Path) -> None:
    (root / "mlplatform.toml").write_text('actor = "ada"\nhome = "state"\n')
    settings = load_settings(root, {"MLPLATFORM_ACTOR": "grace", "MLPLATFORM_HOME": " "})
    shown = {setting.name: (setting.value, setting.source) for setting in settings.sources()}
    assert shown["actor"] == ("grace", "environment MLPLATFORM_ACTOR")
    assert shown["home"] == (str(root / "state"), "mlplatform.toml line 2")
    assert shown["database_url"] == (f"sqlite:///{root}/state/platform.db", "default")


def test_paths_are_taken_from_the_root(root: Path) -> None:
    (root / "mlplatform.toml").write_text(
        'policies = ["a.toml", "b/c.toml"]\ntracking_uri = "sqlite:///m.db"\ndatabase_url = "sqlite:////abs/p.db"'
    )
    settings = load_settings(root, {})
    assert settings.policies == (root / "a.toml", root / "b" / "c.toml")
    assert settings.tracking_uri == f"sqlite:///{root}/m.db"
    assert settings.database_url == "sqlite:////abs/p.db"


def test_a_server_keeps_its_own_files(root: Path) -> None:
    assert load_settings(root, {"MLPLATFORM_TRACKING_URI": "http://127.0.0.1:5000"}).artifact_root is None


def test_passwords_are_not_shown(root: Path) -> None:
    settings = load_settings(root, {"MLPLATFORM_DATABASE_URL": "postgresql+psycopg://ada:geheim@db/ml"})
    assert "geheim" not in str(settings.sources())
    assert settings.database_url.count("geheim") == 1
    assert masked("http://u:p%40ss@h/?password=x&a=b") == "http://u:***@h/?password=***&a=b"


def test_every_mistake_of_the_file_is_told_at_once(root: Path) -> None:
    (root / "mlplatform.toml").write_text('tracking_url = "x"\nhome = 3\npolicies = "policy.toml"\n')
    with pytest.raises(BadPolicy) as caught:
        load_settings(root, {})
    assert caught.value.facts["mistakes"] == [
        "line 1: tracking_url: unknown key, did you mean 'tracking_uri'?",
        "line 2: home: should be text in quotes, not empty",
        'line 3: policies: should be a list of files, for example ["policy.toml"]',
    ]


def test_a_patience_that_is_no_duration_is_told_with_its_source(tmp_path: Path) -> None:
    (tmp_path / "mlplatform.toml").write_text("")
    assert load_settings(tmp_path, {}).mlflow_patience == "20s"
    assert load_settings(tmp_path, {"MLPLATFORM_MLFLOW_PATIENCE": "2m"}).mlflow_patience == "2m"
    for text in ("soon", "0s"):
        with pytest.raises(UsageError, match=r"mlflow_patience \(environment MLPLATFORM_MLFLOW_PATIENCE\)"):
            load_settings(tmp_path, {"MLPLATFORM_MLFLOW_PATIENCE": text})


@pytest.mark.parametrize("text", ["/proc/x", "file", "gone/home"])
def test_a_home_that_cannot_be_is_told_with_its_setting(text: str, root: Path) -> None:
    (root / "file").write_text("")
    settings = load_settings(root, {"MLPLATFORM_HOME": text})
    with pytest.raises(UnusableHome) as told:
        settings.make_home()
    assert str(told.value).startswith("The setting `home` (environment MLPLATFORM_HOME) cannot be used: ")
    assert str(root / text) in str(told.value) and told.value.exit_code == 2
    assert ("it is a file" in str(told.value)) == (text == "file")
    assert not (root / "gone").exists()


def test_a_home_is_made_where_its_folder_is(root: Path) -> None:
    for _ in range(2):
        load_settings(root, {"MLPLATFORM_HOME": "data"}).make_home()
    assert (root / "data").is_dir()
