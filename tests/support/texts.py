"""The texts that a person sees in the tab and at the sliders, read from the source, as keys of localizations/*.json.

A text is a string of at least two words. In a message with values each value is {}; of HTML each piece of text between
tags is one text, and each attribute that is shown or read aloud.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Their texts are seen by others: on the command line, in the API's answers, in reports.
_ELSEWHERE = ("cli", "api", "experiments", "demo", "jobs/ray", "lora/description.py", "__main__.py")
_ATTRIBUTES = {"aria-label", "title", "alt", "placeholder", "aria-valuetext"}
# Two words at least, or one beside a value.
_PROSE = re.compile(r"[A-Za-z]{2,}[,:;]? [A-Za-z]|[A-Za-z]{2,} \{|\} [A-Za-z]{2,}| to \{")
# SQL, JavaScript, selectors, CSS, TOML, tables in Markdown
_CODE = re.compile(
    r"^\s*(SELECT|CREATE|INSERT|UPDATE|DELETE|PRAGMA|BEGIN|ALTER|EXISTS|state NOT|\(|#|\|)"
    r"|ORDER BY|=>|\{\}\{|[{;]\s*[a-z-]+:\S"
)
# Keys of files, texts of files, what the system says, what is written for other programs, and what has no words.
_NOT_SHOWN = {
    "Difference LoRA {}",
    "Difference LoRAs",
    "Hash of the file (AutoV2): {}",
    "Hash of the tensors (AutoV3): {}",
    "Lora hashes",
    "Made by '{}'.",
    "Made by '{}' of {}.",
    "The difference of two pictures",
    "activation text",
    "addift test",
    "ddim needs at least one timestep",
    "effective rank",
    "is full",
    "negative text",
    "preferred weight",
    "sd version",
    "true, false",
    "unable to open",
    "'{}' is no name of an SD1.x module",
    "{} (weight {}, sha256 {})",
    "{} KB",
    "{} MB",
    "{} for {} of {}",
    "{} is missing",
    "{} of {}",
    "{} on {} in {} steps.",
    "{} px {}",
    "{} target",
    "{} with {}",
    "{} x {} px",
    "{} to {}",
    "{} is no time",
    "{}, learnt with {}",
    "{}: LoRA of {} MB",
}
_LONG_LIST = 4  # a list of so many strings has example prompts or words to compare with


def source_texts(root: Path = ROOT) -> dict[str, str]:
    """text -> the first place that has it, such as 'data/checks.py:60'."""
    found: dict[str, str] = {}
    package = root / "lib_addift"
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if not name.startswith(_ELSEWHERE):
            finder = _Finder()
            finder.visit(ast.parse(path.read_text(encoding="utf-8")))
            for line, text in finder.found:
                for part in (each for each in parts_of(text) if each not in _NOT_SHOWN):
                    found.setdefault(part, f"{name}:{line}")
    return found


def script_texts(root: Path = ROOT) -> set[str]:
    """The texts that the page's script writes."""
    script = (root / "javascript" / "addift.js").read_text(encoding="utf-8")
    code = re.sub(r"^\s*//.*", "", script, flags=re.MULTILINE)
    strings = [re.sub(r"\$\{[^}]*\}", "{}", string) for string in re.findall(r"""["`]([^"`\n]*)["`]""", code)]
    # Those without a capital are selectors; one is the name of a button of gradio's.
    return {each for each in strings if _PROSE.search(each) and re.search("^(to )?[A-Z]", each)} - {"Remove Image"}


def parts_of(text: str) -> Iterator[str]:
    """The texts in a string, which may be HTML. Single words only where they are HTML: elsewhere they are names."""
    if re.search(r"</?[a-z][a-z0-9]*[ >]", text):
        pieces = _Pieces()
        pieces.feed(text)
        pieces.close()
        yield from filter(_has_word, pieces.found)
    elif _PROSE.search(text) and not _CODE.search(text):
        yield one_line(text)


def one_line(text: str) -> str:
    """Without line breaks and spaces at the ends, which a page does not show, and without names of values."""
    return re.sub(r"\{[a-z_]+\}", "{}", " ".join(text.split()))


def _has_word(text: str) -> bool:
    return re.search(r"[A-Za-z]{2,}", text.replace("{}", "")) is not None


class _Pieces(HTMLParser):
    """What is shown or read aloud of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._is_code = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._is_code = tag in {"style", "code", "pre", "script"}
        self.found += [one_line(value) for name, value in attributes if name in _ATTRIBUTES and value]

    def handle_endtag(self, _tag: str) -> None:
        self._is_code = False

    def handle_data(self, data: str) -> None:
        if not self._is_code and data.strip():
            self.found.append(one_line(data))


class _Finder(ast.NodeVisitor):
    """The strings of a module that may be shown, with their lines."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if not (isinstance(owner, ast.Name) and owner.id in {"_log", "re"}):
            self.generic_visit(node)

    def visit_Tuple(self, node: ast.Tuple | ast.List) -> None:
        if sum(isinstance(each, ast.Constant) and isinstance(each.value, str) for each in node.elts) < _LONG_LIST:
            self.generic_visit(node)

    visit_List = visit_Tuple  # noqa: N815 - the name that ast calls

    def visit_Constant(self, node: ast.Constant) -> None:
        self._add(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self._add(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if _string(node) is None:
            self.generic_visit(node)
        else:
            self._add(node)

    def _add(self, node: ast.expr) -> None:
        text = _string(node)
        if text is not None:
            self.found.append((node.lineno, text))
        for value in ast.walk(node):
            if isinstance(value, ast.FormattedValue):
                self.visit(value.value)


def _string(node: ast.expr) -> str | None:
    """A string with {} for each value in it; None for what is no string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [_string(node.left), _string(node.right)]
        return None if sides == [None, None] else "".join("{}" if side is None else side for side in sides)
    return None
