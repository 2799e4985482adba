"""The Markdown pages of the project, and the blocks of commands and code in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

PAGES = tuple(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "demos").rglob("*.md")))
    if "out" not in path.relative_to(ROOT).parts
)
KINDS = ("sh", "python", "output", "text", "json", "yaml", "toml")  # output: of the block before; text: anything else
_FENCE = re.compile(r"^```(\w*)(.*)$")
_EXIT_CODE = re.compile(r"# exit code (\d+)\s*$")
_ASSIGNMENT = re.compile(r"\w+=")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code. Fences without a word behind them, and indented blocks, hold commands unless they say text."""

    page: str
    line: int  # of its first line of code
    kind: str  # of KINDS
    text: str
    output: str = ""  # what the page shows of the output, which is the block that follows

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a block."""

    line: str
    words: list[str]
    variables: dict[str, str]  # that are set in front of it
    exit_code: int  # which the comment `# exit code N` behind it names

    @property
    def text(self) -> str:
        """The command without variables, comments and quotation marks."""
        return " ".join(self.words)


def blocks(page: str) -> list[Block]:
    """All blocks of a page, those of `output` as a part of the block before them."""
    found: list[Block] = []
    for block in _blocks(page, (ROOT / page).read_text(encoding="utf-8").splitlines()):
        if block.kind != "output":
            found.append(block)
        else:
            before = found.pop()
            found.append(Block(page, before.line, before.kind, before.text, before.output + block.text))
    return found


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        start = number + 1
        if fence:
            number = lines.index("```", start)
            yield Block(page, start + 1, fence[1] or "sh", "\n".join(lines[start:number]) + "\n")
        elif lines[number].startswith("    ") and not lines[number - 1].strip():
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
            text = "\n".join(line[4:] for line in lines[start - 1 : number]).rstrip() + "\n"
            yield Block(page, start, "sh", text)
        number += 1


def commands(text: str) -> list[Command]:
    """The commands of a block, those that end in a backslash joined with what follows."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words, variables = shlex.split(line, comments=True), {}
        while words and _ASSIGNMENT.match(words[0]):
            name, _, variables[name] = words.pop(0).partition("=")
        if words:
            code = _EXIT_CODE.search(line)
            found.append(Command(line.strip(), words, variables, int(code[1]) if code else 0))
    return found


def prose(page: str) -> str:
    """The page without its blocks."""
    kept, is_code = [], False
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            is_code = not is_code
        elif not is_code and not line.startswith("    "):
            kept.append(line)
    return "\n".join(kept)


def anchors(path: Path) -> set[str]:
    """The names that the headings of a page can be linked by."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
