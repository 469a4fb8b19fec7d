"""One endpoint has one server: policies that share it must guard it alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.config.policy_file import load_policy
from mlplatform.config.settings import load_settings
from mlplatform.errors import BadPolicy
from mlplatform.wiring import Wiring

TLS = 'tls = { cert = "../tls/cert.pem", key = "../tls/key.pem" }'


def project(folder: Path, **endpoints: str) -> Wiring:
    """A policy in a folder of its own for each model."""
    for model, endpoint in endpoints.items():
        (folder / model).mkdir()
        text = (
            f'model = "{model}"\nladder = ["live"]\n[stages.live]\nendpoint = {{ name = "shop"{endpoint} }}\n'
        )
        (folder / model / "policy.toml").write_text(text)
        load_policy(folder / model / "policy.toml")
    listed = ", ".join(f'"{model}/policy.toml"' for model in endpoints)
    (folder / "mlplatform.toml").write_text(f"policies = [{listed}]\n")
    return Wiring(load_settings(folder), print)


@pytest.mark.parametrize("endpoint", ["", ", auth = true", f", {TLS}", ', host = "::1", port = 1'])
def test_policies_that_agree_may_share_an_endpoint(tmp_path: Path, endpoint: str) -> None:
    assert set(
        project(tmp_path, churn=endpoint, fraud=f"{endpoint}, max_waiting_per_model = 7").policies
    ) == {
        "churn",
        "fraud",
    }


@pytest.mark.parametrize(
    ("endpoint", "key"),
    [
        (", auth = true", "auth"),
        (', host = "::1"', "host"),
        (", behind_proxy = true", "behind_proxy"),
        (", memory_mb = 100", "memory_mb"),
        (", workers = 2", "workers"),
        (', target = "local"', "target"),
        (", options = { stop_seconds = 5.0 }", "options"),
        (", limits = { max_waiting = 5 }", "limits"),
        (', log = "access"', "log"),
        (f", {TLS}", "tls"),
    ],
)
def test_any_other_guard_is_a_mistake_of_the_second(tmp_path: Path, endpoint: str, key: str) -> None:
    with pytest.raises(BadPolicy) as caught:
        project(tmp_path, churn="", fraud=endpoint).policy("fraud")
    assert caught.value.facts["path"].endswith("fraud/policy.toml")
    [told] = caught.value.facts["mistakes"]
    assert told.startswith(f"stages.live.endpoint.{key}: ")
    assert str(tmp_path / "churn" / "policy.toml") in told
