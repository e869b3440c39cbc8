"""Print figures of the code beside the goals that are set for them.

    python .ci/measure.py [--package lib_addift] [--step lib_addift.training.loop.train] [--list]

Lines of a file are all of them; the length of a function goes from `def` to its last line, docstring included, and a
nested function counts on its own and within the one that holds it. Tests are outside of the package and left out.

The training step is everything in the package that `train` can reach, outside of hosts/: functions that are named
(called or handed over), `__init__` and `__post_init__` of called classes, and methods and properties of objects whose
class is known: from annotations, from calls of the class, and from what is assigned. A container has the classes of
its elements; with a method come those of subclasses that override it. What is reached only on failure counts too.

It cannot see what is reached through a dictionary of modules, `getattr` or an object without annotations. Where a class
is unknown, a method counts by its name alone, if only one class has a method of that name.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES = 300  # of a module
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Place = tuple[str, str]  # (module, function or class), such as ('lib_addift.training.state', 'TrainState.take_step')
Types = frozenset[Place]
NOTHING: Types = frozenset()
# Methods of containers and tensors: by their name alone they say nothing.
COMMON = {name for kind in (dict, list, set, str, tuple, Path) for name in dir(kind)}
COMMON |= {"cpu", "detach", "device", "dtype", "eval", "float", "item", "mean", "parameters", "shape", "step", "to"}


@dataclass
class Module:
    """A file of the package: its functions and classes by name, and what its imports bind."""

    name: str
    path: Path
    lines: int
    tree: ast.Module
    functions: dict[str, Function] = field(default_factory=dict)  # 'train', 'TrainState.take_step'
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # name here: dotted name


def main() -> int:
    """Print the figures; whatever they are, the exit code is 0."""
    parser = argparse.ArgumentParser(description="Print figures of the code beside their goals.")
    parser.add_argument("--package", type=Path, default=ROOT / "lib_addift")
    parser.add_argument("--step", default="lib_addift.training.loop.train", help="the function where a step begins")
    parser.add_argument("--list", action="store_true", help="name the functions of the training step")
    options = parser.parse_args()
    modules = read_package(options.package.resolve())
    nodes = (node for module in modules.values() for node in ast.walk(module.tree))
    lengths = sorted(length(node) for node in nodes if isinstance(node, FUNCTIONS))
    print(f"files {len(modules)}, lines {sum(module.lines for module in modules.values())}, functions {len(lengths)}")
    p90 = lengths[round(0.9 * (len(lengths) - 1))]
    shown = f"median {statistics.median(lengths):g}, p90 {p90}, max {lengths[-1]}"
    print(f"lines of a function: {shown} (goal: median <= 8, p90 <= 20, max <= 60)")
    long = [f"{module.name} {module.lines}" for module in modules.values() if module.lines > MOST_LINES]
    print(f"modules over {MOST_LINES} lines: {len(long)} (goal: none) {', '.join(long)}".rstrip())
    home, _, name = options.step.rpartition(".")
    if name not in getattr(modules.get(home), "functions", {}):
        raise SystemExit(f"error: there is no function {options.step}")
    print_step(modules, Reader(modules).reachable((home, name)), is_listed=options.list)
    return 0


def print_step(modules: dict[str, Module], step: set[Place], *, is_listed: bool) -> None:
    """The lines, definitions and files of the training step."""
    sizes = {place: length(modules[place[0]].functions[place[1]]) for place in sorted(step)}
    files = sorted({home for home, _ in step})
    goal = "(goal: <= 400 lines in <= 8 files)"
    print(f"training step: {sum(sizes.values())} lines, {len(step)} definitions, {len(files)} files {goal}")
    for file in files:
        own = {name: lines for (home, name), lines in sizes.items() if home == file}
        names = ", ".join(f"{name} {lines}" for name, lines in own.items())
        print(f"  {file} {sum(own.values())}{': ' + names if is_listed else ''}")


def length(node: Function) -> int:
    """Lines from `def` to the end."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def read_package(folder: Path) -> dict[str, Module]:
    """All modules of a package by their dotted names."""
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        module = modules[name] = Module(name, path, len(text.splitlines()), ast.parse(text, str(path)))
        module.functions = {node.name: node for node in module.tree.body if isinstance(node, FUNCTIONS)}
        module.classes = {node.name: node for node in module.tree.body if isinstance(node, ast.ClassDef)}
        for owner in module.classes.values():
            methods = [each for each in owner.body if isinstance(each, FUNCTIONS)]
            module.functions.update({f"{owner.name}.{each.name}": each for each in methods})
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom):
                module.names.update({each.asname or each.name: f"{node.module}.{each.name}" for each in node.names})
            elif isinstance(node, ast.Import):
                module.names.update({each.asname or each.name: each.name for each in node.names})
    return modules


class Reader:
    """Finds which functions of a package a function can reach."""

    def __init__(self, modules: dict[str, Module]) -> None:
        self.modules = modules
        self._attributes: dict[tuple[Place, str], Types] = {}
        self._parents = {
            (home, name): [place for base in node.bases if (place := self._named(module, base))]
            for home, module in modules.items()
            for name, node in module.classes.items()
        }
        self._by_name: dict[str, list[Place]] = {}
        for home, module in modules.items():
            for name in (name for name in module.functions if "." in name):
                self._by_name.setdefault(name.rpartition(".")[2], []).append((home, name))

    def reachable(self, start: Place) -> set[Place]:
        """All that a function can reach, itself included, outside of hosts/ and without the methods of protocols."""
        found: set[Place] = set()
        todo = [start]
        while todo:
            place = todo.pop()
            if not (place in found or ".hosts." in f"{place[0]}." or self._is_protocol(place)):
                found.add(place)
                todo += self._reached_from(place)
        return found

    def _is_protocol(self, place: Place) -> bool:
        owner = self.modules[place[0]].classes.get(place[1].partition(".")[0])
        return owner is not None and any(ast.unparse(base).endswith("Protocol") for base in owner.bases)

    def _reached_from(self, place: Place) -> Iterator[Place]:
        module, node = self.modules[place[0]], self.modules[place[0]].functions[place[1]]
        known = self._variables(place)
        for part in without_annotations(node):
            if isinstance(part, (ast.Name, ast.Attribute)) and (named := self._named(module, part)):
                yield from [named] if named[1] in self.modules[named[0]].functions else []
            elif isinstance(part, ast.Attribute):
                types = self._types(module, part.value, known)
                yield from self._methods(types, part.attr)
                alone = self._by_name.get(part.attr, [])
                of_module = isinstance(part.value, ast.Name) and part.value.id in module.names
                if not types and len(alone) == 1 and part.attr not in COMMON and not of_module:
                    yield from alone
            elif isinstance(part, ast.Subscript):
                yield from self._methods(self._types(module, part.value, known), "__getitem__")
            elif isinstance(part, ast.Call) and (named := self._named(module, part.func)):
                yield from [*self._inherited(named, "__init__"), *self._inherited(named, "__post_init__")]
            elif isinstance(part, ast.Call):
                types = self._types(module, part.func, known)
                yield from [*self._methods(types, "__call__"), *self._methods(types, "forward")]
            elif isinstance(part, (ast.For, ast.comprehension)):
                yield from self._methods(self._types(module, part.iter, known), "__iter__")
            elif isinstance(part, ast.withitem):
                types = self._types(module, part.context_expr, known)
                yield from [*self._methods(types, "__enter__"), *self._methods(types, "__exit__")]

    def _methods(self, types: Iterable[Place], name: str) -> Iterator[Place]:
        """The methods of that name of classes, their parents and their subclasses."""
        for owner in types:
            yield from self._inherited(owner, name)
            for child in (child for child, parents in self._parents.items() if owner in parents):
                yield from self._methods([child], name)

    def _inherited(self, owner: Place, name: str) -> Iterator[Place]:
        if f"{owner[1]}.{name}" in self.modules[owner[0]].functions:
            yield owner[0], f"{owner[1]}.{name}"
        else:
            for parent in self._parents.get(owner, []):
                yield from self._inherited(parent, name)

    def _named(self, module: Module, node: ast.expr) -> Place | None:
        """The function or class of the package that `name` or `module.name` means."""
        name = ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
        if name in module.classes or (name in module.functions and "." not in name):
            return module.name, name
        first, _, rest = name.partition(".")
        return self._dotted(".".join(filter(None, [module.names.get(first, ""), rest])))

    def _dotted(self, dotted: str) -> Place | None:
        home, _, name = dotted.rpartition(".")
        module = self.modules.get(home)
        if module is None:
            return None
        if name in module.functions or name in module.classes:
            return home, name
        return self._dotted(module.names[name]) if name in module.names else None

    def _annotated(self, module: Module, annotation: ast.expr | None) -> Types:
        """The package's classes in an annotation, those within containers too."""
        nodes = ast.walk(annotation) if annotation else ()
        places = (self._named(module, node) for node in nodes if isinstance(node, ast.expr))
        return frozenset(each for each in places if each and each[1] in self.modules[each[0]].classes)

    def _variables(self, place: Place) -> dict[str, Types]:
        """The classes of a function's parameters and variables."""
        module, node = self.modules[place[0]], self.modules[place[0]].functions[place[1]]
        known = {"self": frozenset({(place[0], place[1].partition(".")[0])})} if "." in place[1] else {}
        for argument in (argument for argument in ast.walk(node) if isinstance(argument, ast.arg)):
            if argument.annotation:
                known[argument.arg] = self._annotated(module, argument.annotation)
        for part in ast.walk(node):
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                known[part.target.id] = self._annotated(module, part.annotation)
        for _ in range(5):  # a line may use what a later one assigns
            for targets, value in assignments(node):
                types = self._types(module, value, known)
                for name in (each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)):
                    known[name] = known.get(name, NOTHING) | (types if name != "self" else NOTHING)
        return known

    def _types(self, module: Module, node: ast.expr, known: dict[str, Types]) -> Types:
        """The package's classes of which an expression, or an element of it, may be."""
        if isinstance(node, ast.Name):
            return known.get(node.id, NOTHING)
        if isinstance(node, ast.Attribute):
            owners = self._types(module, node.value, known)
            return NOTHING.union(*(self._attribute(owner, node.attr) for owner in owners))
        if isinstance(node, ast.Call) and (named := self._named(module, node.func)):
            home = self.modules[named[0]]
            is_class = named[1] in home.classes
            return frozenset({named}) if is_class else self._annotated(home, home.functions[named[1]].returns)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            held = self._types(module, node.func.value, known) if node.func.attr in COMMON else NOTHING  # dict.values
            return self._types(module, node.func, known) or held
        parts = (part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr))
        return NOTHING.union(*(self._types(module, part, known) for part in parts))

    def _attribute(self, owner: Place, name: str) -> Types:
        """The classes of an attribute, or of what a method of that name returns."""
        key = (owner, name)
        if key not in self._attributes:
            self._attributes[key] = NOTHING  # an attribute that is made of itself
            found = self._own_attribute(owner, name)
            parents = self._parents.get(owner, [])
            self._attributes[key] = found or NOTHING.union(*(self._attribute(each, name) for each in parents))
        return self._attributes[key]

    def _own_attribute(self, owner: Place, name: str) -> Types:
        module = self.modules[owner[0]]
        if method := module.functions.get(f"{owner[1]}.{name}"):
            return self._annotated(module, method.returns)
        found = NOTHING
        for node in ast.walk(module.classes[owner[1]]):
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) in (name, f"self.{name}"):
                found |= self._annotated(module, node.annotation)
        for method in (each for each in module.classes[owner[1]].body if isinstance(each, FUNCTIONS)):
            for targets, value in assignments(method):
                for target, part in (pair for each in targets for pair in unpacked(each, value)):
                    if ast.unparse(target) == f"self.{name}":
                        found |= self._types(module, part, self._variables((owner[0], f"{owner[1]}.{method.name}")))
        return found


def without_annotations(node: Function) -> Iterator[ast.AST]:
    """All nodes of a function but those of annotations."""
    todo: list[ast.AST] = [node]
    for part in todo:
        skipped = (getattr(part, "annotation", None), getattr(part, "returns", None))
        todo += [child for child in ast.iter_child_nodes(part) if child not in skipped]
    yield from todo


def assignments(node: ast.AST) -> Iterator[tuple[list[ast.expr], ast.expr]]:
    """(targets, value) of all that binds names: assignments, loops, comprehensions, `with` and `:=`."""
    for part in ast.walk(node):
        if isinstance(part, ast.Assign):
            yield part.targets, part.value
        elif isinstance(part, (ast.AnnAssign, ast.NamedExpr)) and part.value:
            yield [part.target], part.value
        elif isinstance(part, (ast.For, ast.comprehension)):
            yield [part.target], part.iter
        elif isinstance(part, ast.withitem) and part.optional_vars:
            yield [part.optional_vars], part.context_expr


def unpacked(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """`a, b = c, d` as (a, c), (b, d); whatever is not of that form as it is."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        yield from zip(target.elts, value.elts, strict=True)
    else:
        yield target, value


if __name__ == "__main__":
    sys.exit(main())
