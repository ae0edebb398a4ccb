"""What the documents show: their blocks of code, shell commands, inline words and links.

A block that is marked ``sh`` or ``python`` is for readers to run. Other blocks show output or data.
"""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^([ ]*)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    """The line of the document that its code starts on, from 1."""
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def module(self) -> str | None:
        """The file that a first line such as ``# my_package/cvar.py`` says that the code is of."""
        named = re.match(r"# (\w+/\w+\.py)\n", self.code)
        return named[1] if named else None

    def commands(self) -> Iterator[list[str]]:
        """The words of each shell command: without comments, lines that go on joined."""
        for line in self.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


@dataclass(frozen=True)
class Document:
    """A Markdown file of the repository."""

    name: str
    """Its path below the root."""

    @property
    def text(self) -> str:
        return (ROOT / self.name).read_text()

    @property
    def prose(self) -> str:
        """The text without fenced blocks."""
        return BLOCK.sub("", self.text)

    def blocks(self, *languages: str) -> list[Block]:
        """The blocks that are marked as one of the languages; all blocks without any."""
        return [
            Block(
                self.name,
                self.text.count("\n", 0, match.start(3)) + 1,
                match[2],
                textwrap.dedent(match[3]),
            )
            for match in BLOCK.finditer(self.text)
            if not languages or match[2] in languages
        ]

    def inline_code(self) -> list[str]:
        """What stands between single backticks, outside of blocks."""
        return [" ".join(code.split()) for code in INLINE.findall(self.prose)]

    def links(self) -> list[str]:
        """Targets of links and pictures that are not of the web."""
        return [link for link in LINK.findall(self.prose) if "://" not in link]

    def anchors(self) -> set[str]:
        """What links may name after ``#``, as GitHub makes it of headings."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def documents() -> list[Document]:
    """Every Markdown file of the repository."""
    found = [*ROOT.glob("*.md")]
    for folder in ("docs", "tests", "examples", "benchmarks", "cluster", "greatmeta_dist"):
        found += (ROOT / folder).rglob("*.md")
    return [Document(str(path.relative_to(ROOT))) for path in sorted(found)]
