"""What the documents say of the code is what the code says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mlplatform.cli.main import cli
from mlplatform.config.policy_file import load_policy
from mlplatform.config.settings import KEYS
from tests import policy_page

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def test_the_reference_of_the_policy_is_written_from_the_code() -> None:
    page = policy_page.PAGE.read_text()
    assert page.partition(policy_page.MARK)[2].strip() == policy_page.reference().strip(), (
        "write it anew: python -m tests.policy_page"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_complete_policy_in_a_document_is_one(page: Path, tmp_path: Path) -> None:
    for body in re.findall(r"^```toml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        if re.search(r"^model\s*=", body, re.MULTILINE):
            (tmp_path / "policy.toml").write_text(body)
            load_policy(tmp_path / "policy.toml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_a_document_exists_with_its_options(page: Path) -> None:
    for line in commands_of(page.read_text()):
        command: click.Command = cli
        context = click.Context(cli)
        words = shlex.split(line.replace("...", ""))[1:]
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.get_command(context, words[0])
            assert found is not None, line
            command, words = found, words[1:]
        known = {option for p in command.params for option in [*p.opts, *p.secondary_opts]} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, line


def test_every_make_target_in_the_readme_exists() -> None:
    known = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?\bmake (\w+)`", (ROOT / "README.md").read_text())) <= known


def test_every_setting_is_explained() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    for key in KEYS:
        assert f"`{key}`" in page and f"`MLPLATFORM_{key.upper()}`" in page


def commands_of(text: str) -> Iterator[str]:
    """`mlplatform ...` in blocks and in running text."""
    for _, body in re.findall(r"^```(console|sh)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in body.replace("\\\n", " ").splitlines():
            if match := re.match(r"(?:\$ )?(mlplatform .*?)(?:  +#.*| [|>] .*| && .*)?$", line):
                yield match[1]
    yield from re.findall(r"(?<!`)`(mlplatform [a-z][^`\n]*)`(?!`)", text)
