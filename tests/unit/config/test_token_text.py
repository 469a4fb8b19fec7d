"""Where a token comes from: the environment, or a file that nobody else can read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlplatform.config.settings import Settings, load_settings
from mlplatform.config.token_text import read_token
from mlplatform.errors import OpenTokenFile


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "mlplatform.toml").write_text('token_file = "my.token"\n')
    (tmp_path / "my.token").write_text("mlp_file\n")
    (tmp_path / "my.token").chmod(0o600)
    return load_settings(tmp_path, {})


def test_the_environment_comes_before_the_file(settings: Settings) -> None:
    assert read_token(settings, {"MLPLATFORM_TOKEN": " mlp_env\n"}) == ("mlp_env", "MLPLATFORM_TOKEN")
    assert read_token(settings, {"MLPLATFORM_TOKEN": ""}) == ("mlp_file", str(settings.token_file))
    assert read_token(replace(settings, token_file=None), {}) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_file_that_others_can_read_is_refused(settings: Settings, mode: int) -> None:
    assert settings.token_file
    settings.token_file.chmod(mode)
    with pytest.raises(OpenTokenFile, match=f"mode {mode:04o}") as caught:
        read_token(settings, {})
    assert "chmod 600" in caught.value.next_step
    assert "mlp_file" not in str(caught.value.to_dict())


def test_a_file_that_is_not_there_does_not_make_a_command_anonymous(settings: Settings) -> None:
    assert settings.token_file
    settings.token_file.unlink()
    with pytest.raises(OpenTokenFile, match="cannot be read: No such file"):
        read_token(settings, {})
    settings.token_file.mkdir()
    with pytest.raises(OpenTokenFile):
        read_token(settings, {})


def test_the_setting_is_shown_and_the_token_is_not(settings: Settings) -> None:
    shown = {s.name: s.value for s in settings.sources()}
    assert shown["token_file"].endswith("my.token")
    assert "mlp_" not in str(settings.sources()) + repr(settings)
