"""Where a model of a shared endpoint is asked is told before its clients depend on another path."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mlplatform.cli.project import check_policy
from mlplatform.control.looking import EndpointState
from mlplatform.ports.extensions import ServerState

POLICY = (
    'model = "{}"\nladder = ["live"]\n[data]\ntarget = "y"\n[stages.live]\nendpoint = {{ name = "shop" }}\n'
)


@pytest.mark.parametrize(("models", "told"), [("a", False), ("ab", True)])
def test_policy_check_tells_of_an_endpoint_that_two_policies_name(
    models: str, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in models:
        (tmp_path / f"{model}.toml").write_text(POLICY.format(model))
    (tmp_path / "mlplatform.toml").write_text(f"policies = {[f'{model}.toml' for model in models]}")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(check_policy, [])
    assert done.exit_code == 0, done.output
    line = "endpoint shop is shared by a, b: ask /models/a/invocations and /models/b/invocations, for /invocations"
    assert (line in done.output) is told


def test_the_first_model_of_a_shared_endpoint_is_told_by_its_own_path_from_the_beginning() -> None:
    alone = EndpointState("shop", "a", "live", ServerState("shop", True), ("a@1",), 1)
    first = EndpointState("shop", "a", "live", ServerState("shop", True), ("a@1",), 1, shared=True)
    assert (alone.path, first.path) == ("/invocations", "/models/a/invocations")
