"""Names in the form."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_addift.errors import LoraFileError
from lib_addift.ui import naming


def test_the_next_free_name_counts_on(tmp_path: Path) -> None:
    assert naming.next_free(tmp_path, "eyes") == "eyes"
    for name in ("eyes", "eyes_2"):
        (tmp_path / f"{name}.safetensors").touch()
    assert naming.next_free(tmp_path, "eyes") == naming.next_free(tmp_path, "eyes_2") == "eyes_3"


def test_a_name_that_cannot_be_is_not_taken(tmp_path: Path) -> None:
    assert not naming.is_taken(tmp_path, "a/b")
    assert not naming.is_taken(tmp_path, "")


def test_what_is_wrong_with_a_name_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(LoraFileError, match="^give the LoRA a name"):
        naming.check("")
    (tmp_path / "eyes.safetensors").touch()
    naming.check_free(tmp_path, "eyes", overwrite=True)
    with pytest.raises(LoraFileError, match="exists already"):
        naming.check_free(tmp_path, "eyes", overwrite=False)
