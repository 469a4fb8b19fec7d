"""A TOML file as read, and every mistake in it with its line, so that all are told at once."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mlplatform.config.toml_lines import Path as KeyPath
from mlplatform.config.toml_lines import key_lines
from mlplatform.errors import BadPolicy


@dataclass(frozen=True)
class Mistake:
    where: KeyPath
    what: str


@dataclass
class TomlFile:
    """A file's values, and the mistakes found so far. `finish` raises them together."""

    path: Path
    values: dict[str, Any]
    lines: Mapping[KeyPath, int]
    mistakes: list[Mistake] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> TomlFile:
        """Raises BadPolicy when the file is missing, not text, or not TOML."""
        try:
            text = path.read_text(encoding="utf-8")
            return cls(path, tomllib.loads(text), key_lines(text))
        except FileNotFoundError:
            raise BadPolicy(str(path), ["there is no such file"]) from None
        except OSError as error:
            raise BadPolicy(str(path), [f"cannot be read: {error.strerror}"]) from error
        except UnicodeDecodeError as error:
            raise BadPolicy(str(path), [f"not UTF-8 text at byte {error.start}"]) from error
        except tomllib.TOMLDecodeError as error:
            raise BadPolicy(str(path), [_syntax(text, str(error))]) from error

    def note(self, where: KeyPath, what: str) -> None:
        self.mistakes.append(Mistake(where, what))

    def finish(self) -> None:
        """Raises BadPolicy with every mistake, in the order of the lines."""
        if self.mistakes:
            said = {self._say(mistake): self.line(mistake.where) for mistake in self.mistakes}
            raise BadPolicy(str(self.path), sorted(said, key=lambda sentence: said[sentence]))

    def line(self, where: KeyPath) -> int:
        """The line of a key, or of the nearest table around it."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)

    def _say(self, mistake: Mistake) -> str:
        return f"line {self.line(mistake.where)}: {dotted(mistake.where)}: {mistake.what}"


def dotted(where: KeyPath) -> str:
    """A key's path as people write it.

    >>> dotted(("stages", "production", "gates", 1, "margin"))
    'stages.production.gates[1].margin'
    """
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not known.

    >>> unknown("key", "gate", ["auto", "gates"])
    "unknown key, did you mean 'gates'?"
    """
    known = sorted(known)
    if close := get_close_matches(name, known, n=1, cutoff=0.6):
        return f"unknown {kind}, did you mean {close[0]!r}?"
    return f"unknown {kind}; known: {', '.join(known) or 'none'}"


def _syntax(text: str, message: str) -> str:
    """`Expected '=' (at line 3, column 5)` as `line 3: expected '=' (column 5)`."""
    said, _, place = message.partition(" (at ")
    said = said[:1].lower() + said[1:]
    if not place.startswith("line "):
        return f"line {text.count(chr(10)) + 1}: {said} at the end of the file"
    line, _, column = place.removesuffix(")").partition(", ")
    return f"{line}: {said} ({column})"
