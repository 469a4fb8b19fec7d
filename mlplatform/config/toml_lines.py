"""Where every key of a TOML text stands. `tomllib` reads the values and forgets the lines."""

from __future__ import annotations

import re

Path = tuple[str | int, ...]
"""Keys and positions from the top: `("stages", "production", "gates", 1, "margin")`."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_KEY = re.compile(r"""[A-Za-z0-9_\-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'", re.DOTALL
)
_BARE = re.compile(r"[^,\]}#\n]*")


def key_lines(text: str) -> dict[Path, int]:
    """The line, counted from 1, on which each key and each item of an array starts.

    The text must be TOML that `tomllib` accepts.

    >>> key_lines('a = 1\\n[b]\\nc = [\\n  { d = 2 },\\n]')[("b", "c", 0, "d")]
    4
    """
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.lines: dict[Path, int] = {}
        self.tables_seen: dict[Path, int] = {}

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        self._skip(_BLANK)
        while self.at < len(self.text):
            if self._peek("["):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)
        return self.lines

    def _header(self) -> Path:
        several = self._peek("[[")
        line = self._line()
        self.at += 2 if several else 1
        keys = self._keys()
        self.at += 2 if several else 1
        path: Path = ()
        for position, key in enumerate(keys):
            path = (*path, key)
            self.lines.setdefault(path, line)
            if several and position == len(keys) - 1:
                self.tables_seen[path] = self.tables_seen.get(path, 0) + 1
            if path in self.tables_seen:
                path = (*path, self.tables_seen[path] - 1)
                self.lines.setdefault(path, line)
        return path

    def _pair(self, table: Path) -> None:
        line, path = self._line(), table
        for key in self._keys():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self.at += 1  # the equals sign
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            raw = self._take(_KEY)
            keys.append(raw.strip("\"'") if raw[0] in "\"'" else raw)
            self._skip(_SPACE)
            if not self._peek("."):
                return keys
            self.at += 1

    def _value(self, path: Path) -> None:
        self._skip(_SPACE)
        self.lines[path] = self._line() if isinstance(path[-1], int) else self.lines[path]
        if self._peek("["):
            self._items(path)
        elif self._peek("{"):
            self._inline_table(path)
        elif self._peek('"') or self._peek("'"):
            self._skip(_STRING)
        else:
            self._skip(_BARE)

    def _items(self, path: Path) -> None:
        position = 0
        while self._next_part("]"):
            self._value((*path, position))
            position += 1
        self.at += 1

    def _inline_table(self, path: Path) -> None:
        while self._next_part("}"):
            self._pair(path)
        self.at += 1

    def _next_part(self, end: str) -> bool:
        """Step over the opening bracket or the comma; False at the end."""
        if self.text[self.at] in "[{,":
            self.at += 1
        self._skip(_BLANK)
        if self._peek(","):
            self.at += 1
            self._skip(_BLANK)
        return not self._peek(end)

    def _peek(self, what: str) -> bool:
        return self.text.startswith(what, self.at)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._take(pattern)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"line {self._line()}: cannot be read")
        self.at = match.end()
        return match[0]

    def _line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1
