"""The pages say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlplatform.config.policy_file import load_policy

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]


def test_the_policy_of_the_page_is_valid(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "policy.md").read_text()
    example = re.search(r"```toml\n(.*?)```", page, re.S)
    assert example
    path = tmp_path / "policy.toml"
    path.write_text(example[1])
    assert load_policy(path).model == "churn"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing
