"""`deploy --target NAME --option KEY=VALUE`: values as a policy has them, text without quotes too."""

from __future__ import annotations

import pytest

from mlplatform.cli.serving import chosen_target
from mlplatform.config.policy_file import build
from mlplatform.domain.use import Use
from mlplatform.errors import UnknownName, UsageError


def test_values_are_read_as_in_a_policy_and_text_needs_no_quotes() -> None:
    given = (
        "memory_mb=1500",
        "start_seconds=2.5",
        'packages=["pandas==3.1.1"]',
        "base_image=python:3.12-slim",
    )
    assert chosen_target("docker", given) == Use(
        "docker",
        {
            "memory_mb": 1500,
            "start_seconds": 2.5,
            "packages": ["pandas==3.1.1"],
            "base_image": "python:3.12-slim",
        },
    )
    assert build("target", chosen_target("docker", given) or Use("")).memory_mb == 1500
    assert chosen_target(None, ()) is None


@pytest.mark.parametrize(
    ("target", "option"), [(None, "memory_mb=1500"), ("docker", "memory_mb"), ("docker", "=1")]
)
def test_an_option_without_its_target_or_value_is_refused(target: str | None, option: str) -> None:
    with pytest.raises(UsageError, match=option):
        chosen_target(target, (option,))


def test_a_mistyped_target_or_option_is_told_with_the_nearest_name() -> None:
    with pytest.raises(UnknownName) as unknown:
        build("target", Use("dokcer"))
    assert unknown.value.next_step == "Did you mean 'docker'?"
    with pytest.raises(UsageError, match="did you mean 'memory_mb'"):
        build("target", Use("docker", {"memory": 1500}))
