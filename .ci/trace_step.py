"""Prints what one real training step runs of lib_addift, outside of hosts/: lines, definitions and files.

    .venv/bin/python .ci/trace_step.py

It trains on the bundled model with the default settings, and lists each function that is called in eight steps, among
which a window of teacher predictions is asked for. Lines are those of the functions without their docstrings; what
only other settings run (other kinds of LoRA, a full GPU) is not counted. `.ci/measure.py` counts that too.
"""

from __future__ import annotations

import ast
import sys
import tempfile
from pathlib import Path
from types import CodeType, FrameType

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lib_addift"
_STEPS = 8  # one window of teacher predictions


def main() -> int:
    """Trace the steps and print the table."""
    found: dict[str, dict[str, int]] = {}
    for code in sorted(traced(), key=lambda code: (code.co_filename, code.co_firstlineno)):
        file = Path(code.co_filename).relative_to(PACKAGE).as_posix()
        found.setdefault(file, {})[f"{code.co_name}:{code.co_firstlineno}"] = length(code)
    for file, functions in found.items():
        names = ", ".join(name.partition(":")[0] for name in functions)
        print(f"{sum(functions.values()):4} {file}: {names}")
    lines, count = sum(sum(each.values()) for each in found.values()), sum(map(len, found.values()))
    print(f"{lines} lines, {count} definitions, {len(found)} files")
    return 0


def traced() -> set[CodeType]:
    """The code of every function of the package that the steps call, but for what a host does."""
    sys.path.insert(0, str(ROOT))
    from lib_addift.config.settings import TrainConfig
    from lib_addift.demo import world
    from lib_addift.demo.run import CHECKPOINT, TASKS
    from lib_addift.hosts.standalone import StandaloneHost
    from lib_addift.training.events import Request
    from lib_addift.training.loop import train_one
    from lib_addift.training.run import TrainingRun

    called: set[CodeType] = set()
    hosts = str(PACKAGE / "hosts")

    def note(frame: FrameType, event: str, _argument: object) -> None:
        code, caller = frame.f_code, frame.f_back
        is_ours = code.co_filename.startswith(str(PACKAGE)) and not code.co_name.startswith("<")
        files = (code.co_filename, caller.f_code.co_filename if caller else "")
        if event == "call" and is_ours and not any(file.startswith(hosts) for file in files):
            called.add(code)

    original, target = (world.draw(face) for face in TASKS["eyes"].faces())
    with tempfile.TemporaryDirectory() as folder:
        host = StandaloneHost(CHECKPOINT, lora_dir=Path(folder), device="cpu")
        config = TrainConfig.create(max_train_steps=3 * _STEPS)
        run = TrainingRun(host, Request.of(original, target, "traced", config))
        with run.exclusive():
            list(run.prepare())
            steps = train_one(host, run.state)
            for number, _report in enumerate(steps, 1):
                if number == _STEPS:
                    sys.setprofile(note)
                if number == 2 * _STEPS:
                    break
            sys.setprofile(None)
    return called


def length(code: CodeType) -> int:
    """The lines of a function without its docstring."""
    for node in ast.walk(ast.parse(Path(code.co_filename).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first == code.co_firstlineno:
                text = node.body[0] if ast.get_docstring(node) else None
                documented = (text.end_lineno or 0) - text.lineno + 1 if text else 0
                return (node.end_lineno or 0) - node.lineno + 1 - documented
    raise LookupError(f"{code.co_name} is not in {code.co_filename}")


if __name__ == "__main__":
    sys.exit(main())
