"""The tab 'Tools': operations on finished LoRA files, in the background, as some take minutes. No gradio."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lib_addift.config.settings import LAYER_KINDS, TrainConfig
from lib_addift.data.pairs import load_pair
from lib_addift.diffusion.host import Host
from lib_addift.errors import AddiftError, ConfigError, LoraFileError, PictureError
from lib_addift.evaluation.calibrate import calibrate
from lib_addift.hosts.checkpoint import open_weights
from lib_addift.lora import tools as lora_tools
from lib_addift.lora.arithmetic import RankLimit
from lib_addift.lora.blocks import BlockWeights
from lib_addift.lora.extract import MODEL_PARTS, extract
from lib_addift.lora.file import check_name, describe
from lib_addift.lora.inspect import BlockFigures, block_figures, layer_figures
from lib_addift.lora.tools import Output, SavedLora, Summand
from lib_addift.ui.background import BackgroundTask, FollowUp, Work
from lib_addift.ui.form import config_of

_log = logging.getLogger(__name__)

OPERATIONS = ("subtract", "merge", "average", "resize", "extract", "calibrate", "show")
_SUMS = ("subtract", "merge", "average")
USED_BY = {  # row of the tab -> the operations that have it
    "tools_choice": (*_SUMS, "resize", "calibrate", "show"),
    "tools_weighing": ("subtract", "merge"),
    "tools_files": ("extract",),
    "tools_layout": ("extract",),
    "tools_size": (*_SUMS, "resize", "extract"),
    "tools_result": OPERATIONS[:-1],
}
FIELDS = (
    "tools_op", "tools_loras", "tools_weights", "tools_blocks", "tools_tuned", "tools_base", "tools_layers",
    "tools_parts", "tools_rank", "tools_energy", "tools_name", "tools_overwrite",
)  # fmt: skip
_COUNTS = {"subtract": (2, 2), "merge": (1, 99), "average": (2, 99)}  # LoRAs at least and at most; else 1
Operation = Callable[[], "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What an operation gave: a sentence, and the file that was made or the figures of one that is shown."""

    title: str
    text: str
    path: Path | None = None  # of a new file
    tag: str = ""
    blocks: Sequence[BlockFigures] = ()


class Tools:
    """The fields as they were last sent, and what came of the latest operation, which `task` runs."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.task = BackgroundTask("addift-tools")
        self.values: dict[str, Any] = {
            "tools_op": OPERATIONS[0], "tools_loras": [], "tools_weights": "", "tools_blocks": "", "tools_tuned": "",
            "tools_base": "", "tools_layers": list(LAYER_KINDS), "tools_parts": list(MODEL_PARTS[:-1]), "tools_rank": 0,
            "tools_energy": 1.0, "tools_name": "", "tools_overwrite": False,
        }  # fmt: skip
        self.names: list[str] = []  # of the LoRAs in the host's folder, with the subfolder
        self.outcome: Outcome | None = None

    @property
    def operation(self) -> str:
        return str(self.values["tools_op"])

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Remember the fields that `values` has."""
        self.values = {**self.values, **{name: values[name] for name in FIELDS if name in values}}

    def refresh_names(self) -> None:
        """List the LoRAs of the host's folder, and unselect those that are gone."""
        folder = self._host.lora_dir
        files = folder.rglob("*.safetensors") if folder.is_dir() else []
        self.names = sorted(file.relative_to(folder).with_suffix("").as_posix() for file in files)
        chosen = self.values["tools_loras"] or []
        self.values = {**self.values, "tools_loras": [name for name in chosen if name in self.names]}

    def start(self, form: Mapping[str, Any], pictures: Mapping[str, Image.Image | None]) -> threading.Thread:
        """Start the chosen operation. Raises an AddiftError for fields that do not fit, or while another one runs.

        Args:
            form: the fields of the tab 'Pair', of which the precision and the settings of a calibration are used.
            pictures: those of the tab 'Pair', for a calibration.
        """

        def prepare() -> Work:
            return functools.partial(self._run, self._operation(form, pictures))

        return self.task.start(prepare, f"{self.operation}: reading")

    def _run(self, operation: Operation) -> FollowUp | None:
        """Perform an operation; returns what makes the host use its new file, which waits until the host is free."""
        self.outcome = None
        try:
            outcome = self.outcome = operation()
        finally:
            self.refresh_names()
        self.task.set_text("")
        return functools.partial(self._refresh_host, outcome.path) if outcome.path is not None else None

    def _operation(self, form: Mapping[str, Any], pictures: Mapping[str, Image.Image | None]) -> Operation:
        """The chosen operation, after all checks that need no file to be read."""
        operation = self.operation
        files = self._files()
        if operation == "show":
            return lambda: _shown(files[0])
        output = self._output(str(form["save_precision"]))
        if operation == "calibrate":
            return self._calibration(files[0], output, config_of(form), pictures)
        size = RankLimit(_rank(self.values["tools_rank"]), float(self.values["tools_energy"] or 0))
        if operation == "extract":
            return self._extraction(output, size)
        parts = self._parts(files)
        make: Callable[[], SavedLora] = {
            "subtract": lambda: lora_tools.subtract(parts[0], parts[1], output, size, self._report),
            "merge": lambda: lora_tools.merge(parts, output, size, self._report),
            "average": lambda: lora_tools.average(files, output, size, self._report),
            "resize": lambda: lora_tools.resize_file(files[0], output, size, self._report),
        }[operation]
        return lambda: _made(make())

    def _files(self) -> list[Path]:
        """The LoRAs that were chosen, as many as the operation needs."""
        if self.operation not in USED_BY["tools_choice"]:
            return []
        names = list(self.values["tools_loras"] or [])
        low, high = _COUNTS.get(self.operation, (1, 1))
        if not low <= len(names) <= high:
            wanted = f"{low}{' or more' if low < high else ''} LoRA{'s' if high > 1 else ''}"
            raise ConfigError(f"'{self.operation}' needs {wanted}, and {len(names)} are chosen: choose {wanted}.")
        known = {name: self._host.lora_dir / f"{name}.safetensors" for name in self.names}
        missing = next((name for name in names if name not in known or not known[name].is_file()), None)
        if missing is not None:
            raise LoraFileError(f"there is no LoRA '{missing}' in '{self._host.lora_dir}' any more: refresh the list.")
        return [known[name] for name in names]

    def _output(self, precision: str) -> Output:
        name = str(self.values["tools_name"] or "").strip()
        path = self._host.lora_dir / f"{check_name(name)}.safetensors"
        return Output(path, precision, bool(self.values["tools_overwrite"]), self._host.card_versions)

    def _parts(self, files: Sequence[Path]) -> list[Summand]:
        """Files and weights; of a subtraction the weight and the blocks are those of what is taken."""
        if self.operation not in USED_BY["tools_weighing"]:
            return []
        numbers = _numbers(str(self.values["tools_weights"] or ""))
        blocks = BlockWeights.parse(str(self.values["tools_blocks"] or ""))
        if self.operation == "subtract":
            if len(numbers) > 1:
                raise ConfigError(f"weights = {self.values['tools_weights']} is more than the one of the second LoRA.")
            return [Summand(files[0]), Summand(files[1], numbers[0] if numbers else 1.0, blocks)]
        if len(numbers) not in (0, len(files)):
            raise ConfigError(f"there are {len(numbers)} weights for {len(files)} LoRAs: give one for each, or none.")
        return [
            Summand(file, weight, blocks) for file, weight in zip(files, numbers or [1.0] * len(files), strict=True)
        ]

    def _extraction(self, output: Output, size: RankLimit) -> Operation:
        paths = [_path(self.values[name], what) for name, what in (("tools_tuned", "tuned"), ("tools_base", "base"))]
        layers, parts = list(self.values["tools_layers"] or []), list(self.values["tools_parts"] or [])

        def work() -> Outcome:
            with open_weights(paths[0]) as tuned, open_weights(paths[1]) as base:
                made = extract(tuned, base, output, layers=layers, parts=parts, limit=size, report=self._report)
            return _made(made)

        return work

    def _calibration(
        self, lora: Path, output: Output, config: TrainConfig, pictures: Mapping[str, Image.Image | None]
    ) -> Operation:
        original, target = pictures["original"], pictures["target"]
        if original is None or target is None:
            raise PictureError("calibrate needs the two pictures of the tab 'Pair': put them in there.")
        pair = load_pair(original, target, config)

        def work() -> Outcome:
            self.task.set_text("the round trip; it waits while the model is busy")
            made = calibrate(self._host, lora, pair, output, config)
            return Outcome(made.path.stem, made.verdict, tag=made.tag)

        return work

    def _report(self, text: str, done: int, total: int) -> None:
        self.task.set_text(f"{self.operation}: {text} {done} of {total}")

    def _refresh_host(self, path: Path) -> None:
        """Wait until the host's model is free, and make it use the new file."""
        try:
            with self._host.exclusive():
                self._host.refresh_loras(path)
        except AddiftError as error:  # such as no SD1.x model: the host finds the file by itself later
            _log.info("the host was not told of '%s': %s", path.name, error)


def _made(made: SavedLora) -> Outcome:
    return Outcome(made.path.stem, made.facts, made.path, made.tag)


def _shown(path: Path) -> Outcome:
    return Outcome(path.stem, describe(path), blocks=block_figures(layer_figures(path)))


def _rank(value: Any) -> int:
    if value is None or value == "":
        return 0
    if float(value) != int(value):
        raise ConfigError(f"rank = {value} must be a whole number, or 0 for no limit.")
    return int(value)


def _numbers(text: str) -> list[float]:
    """'1, 0.5' -> [1.0, 0.5]."""
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise ConfigError(f"weights = {text} must be numbers with commas between them, such as 1, 0.5.") from None


def _path(value: Any, what: str) -> Path:
    text = str(value or "").strip().strip('"')  # Windows copies a path with quotes
    if not text:
        raise ConfigError(f"the {what} checkpoint is not named: type the path of a .safetensors file.")
    return Path(text).expanduser()
