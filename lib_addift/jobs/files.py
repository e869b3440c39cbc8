"""The files of one job in the store: its pictures, its kept steps, where its training stands, and what it showed.

Each file appears whole or not at all, and before the row that names it: see jobs/store.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource
from lib_addift.data.pictures import PictureSource, load_picture, read_own
from lib_addift.errors import JobError, PictureError
from lib_addift.evaluation.new_pictures import NewPictures
from lib_addift.evaluation.round_trip import RoundTrip
from lib_addift.files import disk_remedy, png_bytes, replace_files
from lib_addift.jobs.resume_file import read_resume_state, resume_bytes
from lib_addift.lora.file import check_name
from lib_addift.training.events import Request, Result, ResultFigures, ResumeState, Snapshot

_THUMBNAIL = 96  # px a side
_SHARED_MASK = "mask_file.png"  # the copy of the settings' mask_file


@dataclass(frozen=True, eq=False)
class KeptSnapshot:
    """A snapshot on the disk; its tensors and its strip are read when they are asked for."""

    folder: Path
    step: int

    @property
    def file(self) -> Path:
        return self.folder / f"step{self.step}.safetensors"

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Kohya keys, on the CPU. Raises JobError."""
        try:
            return safetensors.torch.load(self.file.read_bytes())
        except (OSError, SafetensorError) as error:
            raise JobError(f"the kept step '{self.file}' cannot be read ({error}): choose another step.") from error

    @property
    def strip(self) -> Image.Image:
        """Raises JobError."""
        return _picture(self.file.with_suffix(".png"))


@dataclass(frozen=True)
class KeptResult(ResultFigures):
    """A result whose strip and pictures are on the disk and are read when they are asked for."""

    folder: Path = field(kw_only=True)

    @classmethod
    def from_values(cls, folder: Path, values: Mapping[str, Any]) -> KeptResult:
        """The result that `values` has made JSON of."""
        trip = dict(values["round_trip"])
        trip["curve"] = tuple((weight, score) for weight, score in trip["curve"])
        # Results of before there were new pictures have none.
        new = NewPictures.from_values(values.get("new_pictures", {}))
        read = {"path": Path(values["path"]), "round_trip": RoundTrip(**trip), "new_pictures": new}
        return cls(**{**values, **read}, folder=folder)

    def values(self) -> dict[str, Any]:
        """What is known of the file, as JSON holds it."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(ResultFigures)}
        parts = {name: dataclasses.asdict(values[name]) for name in ("round_trip", "new_pictures")}
        return {**values, "path": str(self.path), **parts}

    @property
    def strip_file(self) -> Path:
        return self.folder / f"result-{self.path.stem}.png"

    @property
    def pictures_file(self) -> Path:
        return self.folder / f"round-trip-{self.path.stem}.png"

    @property
    def grid_file(self) -> Path:
        return self.folder / f"new-pictures-{self.path.stem}.png"

    @property
    def strip(self) -> Image.Image:
        """Raises JobError."""
        return _picture(self.strip_file)

    @property
    def pictures(self) -> Image.Image:
        """The round trip. Raises JobError."""
        return _picture(self.pictures_file)

    @property
    def grid(self) -> Image.Image | None:
        """The new pictures, where some were drawn. Raises JobError."""
        return _picture(self.grid_file) if self.new_pictures.count else None


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
        config = TrainConfig.create(**values["settings"])
        return Request(self.pairs(values["pairs"]), check_name(values["name"]), config, values["overwrite"] is True)

    def pairs(self, values: Sequence[Mapping[str, Any]]) -> tuple[PairSource, ...]:
        """The pairs that `put_request` has made JSON of; their pictures are in this folder."""
        pictures = ("original", "target", "mask")
        places = ({role: self.folder / Path(pair[role]).name for role in pictures if pair.get(role)} for pair in values)
        return tuple(PairSource(**{**pair, **place}) for pair, place in zip(values, places, strict=True))

    def values(self, request: Request) -> dict[str, Any]:
        """A request whose pictures are in this folder, as JSON holds it."""
        pairs = []
        for pair in request.pairs:
            values = {field.name: getattr(pair, field.name) for field in dataclasses.fields(pair)}
            pairs.append({key: value.name if isinstance(value, Path) else value for key, value in values.items()})
        settings = request.config.to_dict()
        return {"pairs": pairs, "name": request.name, "overwrite": request.overwrite, "settings": settings}

    @property
    def thumbnail(self) -> Image.Image | None:
        """The first pair, small and side by side; None when its file is gone."""
        with contextlib.suppress(PictureError):
            return read_own(self.folder / "thumbnail.png")
        return None

    def put_snapshot(self, snapshot: Snapshot) -> KeptSnapshot:
        """Keep a step; returns it as it is on the disk."""
        kept = KeptSnapshot(self.folder, snapshot.step)
        tensors = {name: tensor.contiguous() for name, tensor in snapshot.tensors.items()}
        self._put({kept.file.with_suffix(".png"): _png(snapshot.strip), kept.file: safetensors.torch.save(tensors)})
        return kept

    def put_result(self, result: Result) -> KeptResult:
        """Keep what was measured and drawn of a saved LoRA; returns it as it is on the disk."""
        figures = {each.name: getattr(result, each.name) for each in dataclasses.fields(ResultFigures)}
        kept = KeptResult(**figures, folder=self.folder)
        pictures = {kept.strip_file: result.strip, kept.pictures_file: result.pictures, kept.grid_file: result.grid}
        self._put({file: _png(picture) for file, picture in pictures.items() if picture is not None})
        return kept

    def put_resume_state(self, resume_state: ResumeState, *, keeps_last: bool = False) -> None:
        """Keep where training stands. Of where it stood before, `keeps_last` keeps the last one.

        Jobs that share their passes go on from one step, which the others may not have reached on the disk. One that
        has gone back writes a step that it had written already: what is kept beside it is always older.
        """
        contents = {self._resume_file: resume_bytes(resume_state)}
        if keeps_last and (last := self.resume_state(resume_state.step - 1)):
            contents = {self._last_resume_file: resume_bytes(last), **contents}
        self._put(contents)

    def resume_state(self, most_steps: int | None = None) -> ResumeState | None:
        """Where training stood last, after at most so many steps; None when it has to begin at the start."""
        for file in (self._resume_file, self._last_resume_file):
            try:
                found = read_resume_state(file.read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                if file == self._last_resume_file:
                    return None
                raise JobError(f"'{file}' cannot be read ({error}): retry the job from the start.") from error
            if most_steps is None or found.step <= most_steps:
                return found
        return None

    @property
    def has_resume_state(self) -> bool:
        return self._resume_file.exists()

    @property
    def _resume_file(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def _last_resume_file(self) -> Path:
        return self.folder / "checkpoint-before.safetensors"

    def kept_bytes(self) -> int:
        """What the kept steps and the resume state take of the disk."""
        return sum(file.stat().st_size for file in self._kept())

    def forget(self, *, resume_state: bool = True, steps: bool = True) -> None:
        """Remove the resume state, the kept steps or both; what other programs hold open stays until the next time."""
        for file in self._kept():
            if resume_state if file.name.startswith("checkpoint") else steps:
                with contextlib.suppress(OSError):
                    file.unlink()

    def _kept(self) -> list[Path]:
        return [
            *self.folder.glob("step*.safetensors"),
            *self.folder.glob("step*.png"),
            *(file for file in (self._last_resume_file, self._resume_file) if file.exists()),
        ]

    def _put(self, contents: Mapping[Path, bytes]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_files(contents, durable=self._durable)
        except OSError as error:
            raise JobError(
                f"the job's folder '{self.folder}' cannot be written ({error.strerror or error}): {disk_remedy(error)}."
            ) from error


def without_shared_mask(request: Request) -> Request:
    """The request with its masks as the settings say, where they were copied from the settings' mask_file."""
    pairs = (
        replace(pair, mask=None) if isinstance(pair.mask, Path) and pair.mask.name == _SHARED_MASK else pair
        for pair in request.pairs
    )
    return replace(request, pairs=tuple(pairs))


def _png(picture: Image.Image) -> bytes:
    return png_bytes(picture, compress_level=1)


def _picture(file: Path) -> Image.Image:
    try:
        return read_own(file)
    except PictureError as error:
        text = f"a kept picture cannot be read: {error} The job's folder was changed; train it again."
        raise JobError(text) from error


def side_by_side(original: Image.Image, target: Image.Image) -> Image.Image:
    """A pair, small enough for a list."""
    row = Image.new("RGB", (2 * _THUMBNAIL, _THUMBNAIL), "white")
    for index, picture in enumerate((original, target)):
        small = picture.convert("RGBA")
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        corner = index * _THUMBNAIL + (_THUMBNAIL - small.width) // 2, (_THUMBNAIL - small.height) // 2
        row.paste(small, corner, small)
    return row
