"""What a process of the cluster does with the checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lib_addift.errors import HostError
from lib_addift.jobs.ray import actor
from lib_addift.jobs.ray.actor import Model, digest
from tests.support.ray_cluster import needs_ray


def test_a_machine_gets_the_checkpoint_once_and_again_when_its_copy_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_ray()
    contents, sent = np.arange(99, dtype=np.uint8), []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("ray.get", lambda reference: sent.append(reference) or contents)
    model = Model("name.safetensors", digest(contents), ("reference",))
    for _ in range(2):
        file = actor._local_file(model)
        assert file.name == "name.safetensors"
        assert file.read_bytes() == contents.tobytes()
    assert sent == ["reference"]
    file.write_bytes(b"half")
    assert actor._local_file(model).read_bytes() == contents.tobytes()
    assert len(sent) == 2
    (tmp_path / f"addift-{'0' * 64}").touch()
    with pytest.raises(HostError, match="cannot be written to"):
        actor._local_file(Model("name.safetensors", "0" * 64, ("reference",)))
