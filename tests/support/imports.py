"""The imports of a package, read from its source, and the floors on which its folders stand."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

# Folders and single modules of lib_addift, from the ground up. A module may import from lower floors only.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "files", "dtypes", "families"),
    ("config", "same_origin"),
    ("data", "lora"),
    ("diffusion",),
    ("evaluation", "hosts", "drawn_pairs"),
    ("training",),
    ("sets", "jobs", "demo"),
    ("ui", "api", "experiments"),
    ("webui", "cli"),
    ("__main__",),
)


def imports(package: Path) -> list[tuple[str, str, int]]:
    """Every import in a package, those inside functions and under TYPE_CHECKING too.

    Args:
        package: The folder of the package, such as `Path("lib_addift")`.

    Returns:
        (importing module, imported module, line), sorted by file and line. Names are dotted and absolute, such as
        `lib_addift.lora.file`; the name of a package stands for its `__init__.py`. `from a import b` is an import of
        `a.b` where that is a module of the package, and of `a` otherwise. Modules of other packages are listed as
        they are written, also those that `import_module("...")` names.
    """
    files = {_name(file, package): file for file in sorted(package.rglob("*.py"))}
    found = []
    for name, file in files.items():
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        home = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for line, imported in sorted(_imported(tree, home, set(files))):
            found.append((name, imported, line))
    return found


def folder(module: str) -> str:
    """The folder of `lib_addift` in which a module lies, or the module's own name where it lies in none.

    `lib_addift.lora.file` is in `lora`, `lib_addift.errors` is `errors`; '' for `lib_addift` itself.
    """
    return (*module.split("."), "")[1]


def _name(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(tree: ast.Module, home: str, known: set[str]) -> Iterator[tuple[int, str]]:
    """(line, module) for each import statement of a module that lies in the package `home`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = home.split(".")
            start = parts[: len(parts) + 1 - node.level] if node.level else []
            source = ".".join([*start, *filter(None, [node.module])])
            modules = {_module(source, alias.name, known) for alias in node.names}
            yield from ((node.lineno, module) for module in modules)
        elif isinstance(node, ast.Call) and _called(node) == "import_module":
            yield from ((node.lineno, str(each.value)) for each in node.args[:1] if isinstance(each, ast.Constant))


def _module(source: str, name: str, known: set[str]) -> str:
    return f"{source}.{name}" if f"{source}.{name}" in known else source


def _called(call: ast.Call) -> str:
    return str(getattr(call.func, "attr", getattr(call.func, "id", "")))
