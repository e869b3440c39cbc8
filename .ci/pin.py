"""Write lib_addift/constraints.txt: every package that install.py may install, the last transitive one too, pinned.

    pip install uv
    python .ci/pin.py [--upgrade]

It resolves the pins of lib_addift/*requirements.txt and tests/requirements.txt for Python 3.10 and newer and every
system at once; where these need different versions, lines have markers. What the file pins already stays as it is
unless a pin moved or --upgrade is given. Then `python3 install.py test` installs and tests the new versions.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Every package that install.py may install, pinned. Made by 'python .ci/pin.py'; do not edit it by hand.\n"


def main(arguments: list[str]) -> int:
    """Resolve and write. Returns uv's exit code."""
    sys.path.insert(0, str(ROOT))
    import install

    if importlib.util.find_spec("uv") is None:
        print("error: this needs uv: run 'pip install uv'.", file=sys.stderr)
        return 1
    target = ROOT / install.CONSTRAINTS
    command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.10", "--no-header"]
    command += ["--no-annotate", "--quiet", *arguments, "--output-file", install.CONSTRAINTS, *install.CONSTRAINED]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code == 0:
        target.write_text(HEADER + target.read_text(encoding="utf-8"), encoding="utf-8", newline="\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
