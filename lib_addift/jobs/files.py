"""The files of one job in the store: its pictures, its kept steps, where its training stands, and what it showed.

Each file appears whole or not at all, and before the row that names it: see lib_addift/jobs/store.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource, PictureSource, load_picture
from lib_addift.errors import JobError
from lib_addift.evaluation.round_trip import RoundTrip
from lib_addift.files import png_bytes, replace_files
from lib_addift.jobs.resume_file import read_resume_state, resume_bytes
from lib_addift.training.events import Request, Result, ResumeState, Snapshot

_THUMBNAIL = 96  # px a side
_SHARED_MASK = "mask_file.png"  # the copy of the settings' mask_file


class KeptStep(Snapshot):
    """A snapshot on the disk; its tensors and its strip are read when they are asked for."""

    def __init__(self, folder: Path, step: int) -> None:
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "_file", folder / f"step{step}.safetensors")

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        file: Path = self._file  # type: ignore[attr-defined]
        try:
            return safetensors.torch.load(file.read_bytes())
        except (OSError, SafetensorError) as error:
            raise JobError(f"the kept step '{file}' cannot be read ({error}): choose another step.") from error

    @property
    def strip(self) -> Image.Image:
        return _picture(self._file.with_suffix(".png"))  # type: ignore[attr-defined]


class KeptResult(Result):
    """A result whose strip and pictures are on the disk and are read when they are asked for."""

    def __init__(self, folder: Path, values: Mapping[str, Any]) -> None:
        trip = dict(values["round_trip"])
        trip["curve"] = tuple((weight, score) for weight, score in trip["curve"])
        plain = {**values, "path": Path(values["path"]), "round_trip": RoundTrip(**trip)}
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_strip", folder / f"result-{plain['path'].stem}.png")

    @property
    def strip(self) -> Image.Image:
        return _picture(self._strip)  # type: ignore[attr-defined]

    @property
    def pictures(self) -> Image.Image:
        return _picture(_round_trip_file(self._strip))  # type: ignore[attr-defined]

    def values(self) -> dict[str, Any]:
        """What is known of the file, as JSON holds it."""
        names = [field.name for field in dataclasses.fields(Result) if field.name not in ("strip", "pictures")]
        values = {name: getattr(self, name) for name in names}
        return {**values, "path": str(self.path), "round_trip": dataclasses.asdict(self.round_trip)}


class JobFiles:
    """One job's folder. Methods raise JobError when the disk does not allow what they do."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder, self._durable = folder, durable

    def put_request(self, request: Request) -> dict[str, Any]:
        """Copy the pictures, upright and without loss; returns the request as JSON holds it. Raises PictureError."""
        config, pairs = request.config, []
        for number, pair in enumerate(request.pairs):
            mask = f"mask{number}.png" if pair.mask is not None else None
            if mask is None and config.mask == "file":
                mask = _SHARED_MASK
            values = {field.name: getattr(pair, field.name) for field in dataclasses.fields(pair)}
            pairs.append({**values, "original": f"original{number}.png", "target": f"target{number}.png", "mask": mask})
            self._put_pictures(pair, pairs[-1], config)
        return {"pairs": pairs, "name": request.name, "overwrite": request.overwrite, "settings": config.to_dict()}

    def _put_pictures(self, pair: PairSource, names: Mapping[str, Any], config: TrainConfig) -> None:
        sources: dict[str, PictureSource | None] = {"original": pair.original, "target": pair.target}
        sources["mask"] = config.mask_file if names["mask"] == _SHARED_MASK else pair.mask
        pictures = {role: load_picture(source, role) for role, source in sources.items() if source is not None}
        contents = {self.folder / names[role]: _png(picture) for role, picture in pictures.items() if names[role]}
        if names["original"] == "original0.png":
            contents[self.folder / "thumbnail.png"] = _png(side_by_side(pictures["original"], pictures["target"]))
        self._put(contents)

    def request(self, values: Mapping[str, Any]) -> Request:
        """The request that `put_request` has made JSON of. Raises ConfigError for settings that are no more."""
        pairs = tuple(
            PairSource(**{
                **pair, **{role: self.folder / pair[role] for role in ("original", "target", "mask") if pair[role]}
            })
            for pair in values["pairs"]
        )  # fmt: skip
        return Request(pairs, values["name"], TrainConfig.create(**values["settings"]), values["overwrite"])

    @property
    def thumbnail(self) -> Image.Image | None:
        """The first pair, small and side by side; None when its file is gone."""
        with contextlib.suppress(OSError), Image.open(self.folder / "thumbnail.png") as picture:
            return picture.copy()
        return None

    def put_snapshot(self, snapshot: Snapshot) -> KeptStep:
        """Keep a step; returns it as it is on the disk."""
        file = self.folder / f"step{snapshot.step}.safetensors"
        tensors = {name: tensor.contiguous() for name, tensor in snapshot.tensors.items()}
        self._put({file.with_suffix(".png"): _png(snapshot.strip), file: safetensors.torch.save(tensors)})
        return KeptStep(self.folder, snapshot.step)

    def put_result(self, result: Result) -> KeptResult:
        """Keep what a saved LoRA showed; returns it as it is on the disk."""
        strip = self.folder / f"result-{result.path.stem}.png"
        self._put({strip: _png(result.strip), _round_trip_file(strip): _png(result.pictures)})
        return KeptResult(self.folder, KeptResult.values(result))  # type: ignore[arg-type]

    def put_resume_state(self, checkpoint: ResumeState) -> None:
        """Keep where training stands, in place of where it stood."""
        self._put({self._checkpoint: resume_bytes(checkpoint)})

    def checkpoint(self) -> ResumeState | None:
        """Where training stood last; None when it has to begin at the start."""
        try:
            return read_resume_state(self._checkpoint.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise JobError(f"'{self._checkpoint}' cannot be read ({error}): retry the job from the start.") from error

    @property
    def has_resume_state(self) -> bool:
        return self._checkpoint.exists()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def kept_bytes(self) -> int:
        """What the kept steps and the checkpoint take of the disk."""
        return sum(file.stat().st_size for file in self._kept())

    def forget(self, *, checkpoint: bool = True, steps: bool = True) -> None:
        """Remove the checkpoint, the kept steps or both; what other programs hold open stays until the next time."""
        for file in self._kept():
            if checkpoint if file == self._checkpoint else steps:
                with contextlib.suppress(OSError):
                    file.unlink()

    def _kept(self) -> list[Path]:
        return [
            *self.folder.glob("step*.safetensors"),
            *self.folder.glob("step*.png"),
            *self.folder.glob(self._checkpoint.name),
        ]

    def _put(self, contents: Mapping[Path, bytes]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_files(contents, durable=self._durable)
        except OSError as error:
            raise JobError(
                f"the job's folder '{self.folder}' cannot be written ({error.strerror or error}): make room there."
            ) from error


def without_shared_mask(request: Request) -> Request:
    """The request with its masks as the settings say, where they were copied from the settings' mask_file."""
    pairs = (
        replace(pair, mask=None) if isinstance(pair.mask, Path) and pair.mask.name == _SHARED_MASK else pair
        for pair in request.pairs
    )
    return replace(request, pairs=tuple(pairs))


def _round_trip_file(strip: Path) -> Path:
    return strip.with_name(f"round-trip-{strip.name.removeprefix('result-')}")


def _png(picture: Image.Image) -> bytes:
    return png_bytes(picture, compress_level=1)


def _picture(file: Path) -> Image.Image:
    try:
        with Image.open(file) as picture:
            return picture.copy()
    except OSError as error:
        raise JobError(f"'{file}' cannot be read ({error}): the job's folder was changed; train it again.") from error


def side_by_side(original: Image.Image, target: Image.Image) -> Image.Image:
    """A pair, small enough for a list."""
    row = Image.new("RGB", (2 * _THUMBNAIL, _THUMBNAIL), "white")
    for index, picture in enumerate((original, target)):
        small = picture.convert("RGBA")
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        corner = index * _THUMBNAIL + (_THUMBNAIL - small.width) // 2, (_THUMBNAIL - small.height) // 2
        row.paste(small, corner, small)
    return row
