"""docs/architecture.svg shows the imports as they are."""

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.support.imports import FLOORS, folder, imports

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def drawing():
    """docs/draw_architecture.py as a module."""
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs" / "draw_architecture.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before
    del sys.modules[spec.name]


def test_the_committed_picture_is_what_the_script_draws(drawing):
    picture = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert picture == drawing.draw(), "run: python docs/draw_architecture.py"


def test_every_folder_of_the_package_is_on_one_floor():
    on_floors = [name for floor in FLOORS for name in floor]
    assert len(on_floors) == len(set(on_floors))
    folders = {each.name for each in (ROOT / "lib_addift").iterdir() if (each / "__init__.py").is_file()}
    assert folders <= set(on_floors)


def test_arrows_that_others_imply_are_left_out(drawing):
    edges = [("ui", "jobs"), ("jobs", "config"), ("ui", "config"), ("config", "errors"), ("ui", "errors")]
    assert drawing.reduce_edges(edges) == [("config", "errors"), ("jobs", "config"), ("ui", "jobs")]
    assert ("config", "jobs") in drawing.reduce_edges([*edges, ("config", "jobs")]), "upward ones are always drawn"


def test_imports_are_found_wherever_they_stand(tmp_path):
    package = tmp_path / "house"
    (package / "room").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "room" / "__init__.py").write_text("from .. import cellar\n", encoding="utf-8")
    (package / "cellar.py").write_text(
        "import os.path\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    from house.room import table\n"
        "def late():\n"
        "    from house.room.table import leg\n"
        "    import_module('house.attic')\n",
        encoding="utf-8",
    )
    (package / "room" / "table.py").write_text("from . import chair, colour\n", encoding="utf-8")
    (package / "room" / "chair.py").touch()
    assert imports(package) == [
        ("house.cellar", "os.path", 1),
        ("house.cellar", "typing", 2),
        ("house.cellar", "house.room.table", 4),
        ("house.cellar", "house.room.table", 6),
        ("house.cellar", "house.attic", 7),
        ("house.room", "house.cellar", 1),
        ("house.room.table", "house.room", 1),
        ("house.room.table", "house.room.chair", 1),
    ]
    assert folder("house.room.table") == "room"
    assert folder("house") == ""
