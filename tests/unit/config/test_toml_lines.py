from __future__ import annotations

import tomllib
from typing import Any

import pytest

from mlplatform.config.toml_lines import Path, key_lines

WILD = '''# a comment with = and [brackets]
model = "a" # [not.a.table]
"quo ted".inner = 3
ladder = ["s",
  # ] in a comment
  "p]",
]

[data]
text = """
more = "lines"
"""
nested = [1, [2, 3], { a = 4, b = { c = 5 } }]
when = 1979-05-27 07:32:00
raw = 'C:\\path', # not really a comma
'''.replace("', # not really a comma", "'")

TABLES = """[[step]]
a = 1
[[step]]
a = 2
[step.deeper]
b = 3
[stages.production]
gates = [
  { use = "metric", name = "auc" },

  { use = "budget" }, [], {},
]
"""


def paths(value: Any, at: Path = ()) -> list[Path]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, item in below for path in paths(item, (*at, key)))]


@pytest.mark.parametrize("text", [WILD, TABLES])
def test_every_key_and_item_has_a_line(text: str) -> None:
    assert set(paths(tomllib.loads(text))) - {()} == set(key_lines(text))


def test_lines_are_where_the_keys_are() -> None:
    lines = key_lines(WILD)
    assert lines[("quo ted", "inner")] == 3
    assert lines[("ladder", 1)] == 6
    assert lines[("data", "nested", 2, "b", "c")] == 13
    assert lines[("data", "when")] == 14


def test_tables_of_an_array_are_told_apart() -> None:
    lines = key_lines(TABLES)
    assert (lines[("step", 0, "a")], lines[("step", 1, "a")]) == (2, 4)
    assert lines[("step", 1, "deeper", "b")] == 6
    assert lines[("stages", "production", "gates", 1, "use")] == 11


def test_the_last_line_needs_no_newline() -> None:
    assert key_lines("a = 1\nb = 2") == {("a",): 1, ("b",): 2}
