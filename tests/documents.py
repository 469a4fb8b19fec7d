"""Documents that run: their commands and files are tried in a fresh folder, and what is printed is compared.

A block ```console holds commands after `$ `, and below each what it printed; a line `...` stands for any lines.
Other blocks whose first line is a comment with a file's name are written to that file before the next command.

`python -m tests.documents docs/tutorial.md` runs a document and writes the new output into it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLE = "/home/ada/shop"
"""The folder that documents speak of."""
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.\w+|MLproject)\s*$")
_SAID = re.compile(r"@@begin (\d+)\n(.*?)\n?@@end \1 (\d+)\n", re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A command with the output that the document shows, or a file with its text."""

    command: str = ""
    shown: tuple[str, ...] = ()
    file: str = ""
    text: str = ""


@dataclass(frozen=True)
class Said:
    output: str
    code: int


def steps(page: str) -> list[Step]:
    found: list[Step] = []
    for language, body in _BLOCK.findall(page):
        if language == "console":
            found += _commands(body)
        elif named := _FILE.match(body.splitlines()[0]):
            found.append(Step(file=named[1], text=body))
    return found


def run(found: list[Step], folder: Path) -> list[Said]:
    """Every command in one shell, so that variables and `cd` last; what each said and how it ended."""
    script = ["exec 2>&1", f"cd {folder}"]
    numbered = 0
    for step in found:
        if step.file:
            script.append(f"cat > {step.file} <<'@@file'\n{step.text}@@file")
        else:
            script.append(
                f"echo '@@begin {numbered}'\n{step.command}\ncode=$?; echo; echo \"@@end {numbered} $code\""
            )
            numbered += 1
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "MLPLATFORM_ACTOR": "ada"}
    done = subprocess.run(
        ["bash"],
        input="\n".join(script),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = {int(n): Said(output.strip("\n"), int(code)) for n, output, code in _SAID.findall(done.stdout)}
    assert len(said) == numbered, done.stdout[-2000:]
    return [said[n] for n in range(numbered)]


def same(shown: str, said: str, folder: Path) -> bool:
    """Whether two outputs are alike but for numbers, names of runs and bytes, times and the width of columns."""
    pattern = re.escape(_plain(shown, folder)).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, _plain(said, folder), re.DOTALL) is not None


def assert_shown(page: str, command: str, said: str) -> None:
    """The page of docs/ shows this command with this output, but for what `same` lets differ."""
    found = [step for step in steps((ROOT / "docs" / page).read_text()) if step.command == command]
    assert any(same("\n".join(step.shown), said, Path(EXAMPLE)) for step in found), said


def _plain(text: str, folder: Path) -> str:
    text = text.replace(str(folder), EXAMPLE)
    text = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b(?=[a-f]*\d)[0-9a-f]{8,}\b", "#", text)
    text = re.sub(r"[-+]?\d+(\.\d+)?(e-?\d+)?", "#", text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines()).strip()


def _commands(body: str) -> list[Step]:
    found: list[Step] = []
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        while command.endswith("\\"):
            more, _, shown = shown.partition("\n")
            command += "\n" + more
        found.append(Step(command=command, shown=tuple(shown.rstrip("\n").splitlines())))
    return found


def _rewritten(page: str, said: list[Said], folder: Path) -> str:
    """The page with what was printed now; outputs that the document shortens are left."""
    answers = iter(said)

    def block(match: re.Match[str]) -> str:
        if match[1] != "console":
            return match[0]
        lines = []
        for step in _commands(match[2]):
            answer = next(answers)
            lines.append(f"$ {step.command}")
            fresh = answer.output.replace(str(folder), EXAMPLE).splitlines()
            lines += step.shown if "..." in step.shown else fresh
        return "```console\n" + "\n".join(lines) + "\n```"

    return _BLOCK.sub(block, page)


if __name__ == "__main__":
    document = Path(sys.argv[1])
    place = Path("/tmp/ada1/shop")  # as long as the path that documents show, so that columns fit
    place.mkdir(parents=True)
    try:
        answers = run(steps(document.read_text()), place)
        document.write_text(_rewritten(document.read_text(), answers, place))
        for number, answer in enumerate(answers):
            if answer.code:
                print(f"command {number} ended with {answer.code}: {answer.output}")
    finally:
        shutil.rmtree(place.parent)
