"""What each button of the tab 'Pair' does. Values come and go by name: dict in, dict of changes out. No gradio."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from lib_addift.errors import AddiftError, JobError
from lib_addift.evaluation.preview import preview_prompts
from lib_addift.hosts.prompt_tag.syntax import MERGE
from lib_addift.jobs.queue import Job, Jobs
from lib_addift.training.events import Request
from lib_addift.ui import naming, tools_view
from lib_addift.ui.background import report_error
from lib_addift.ui.batch import Batch
from lib_addift.ui.drawing import PairDrawing
from lib_addift.ui.form import Draft, Props, method_values, preset_of, preset_values, request_of
from lib_addift.ui.form_panels import FIELDS_OF_A_PAIR
from lib_addift.ui.pairs import PICTURES, ROLES
from lib_addift.ui.panels import Panels
from lib_addift.ui.tools import Tools
from lib_addift.ui.trial import Trial, TrialRequest

Values = Mapping[str, Any]
Changes = dict[str, Any]


class HasPanels(Protocol):
    """What `report_errors_in` needs of a class of handlers."""

    draft: Draft
    panels: Panels


H = TypeVar("H", bound=HasPanels)


_ONLY_RESTORED = (*FIELDS_OF_A_PAIR, "name", "seen")


def report_errors_in(place: str) -> Callable[[Callable[[H, Values], Changes]], Callable[[H, Values], Changes]]:
    """A decorator for handlers: an error becomes the sentence in `place`; the panels that changed are added."""

    def wrap(handler: Callable[[H, Values], Changes]) -> Callable[[H, Values], Changes]:
        @functools.wraps(handler)
        def call(self: H, values: Values) -> Changes:
            changes: Changes = {}
            try:
                changes = handler(self, values)
            except Exception as error:
                self.draft.alerts[place] = report_error(error, f"the tab's '{handler.__name__}'")
            panels = self.panels.changes(values["seen"])
            if not values["seen"]:  # it waits for `restore`: nothing else may replace what is put in meanwhile
                panels = {name: change for name, change in panels.items() if name not in _ONLY_RESTORED}
            return {**panels, **changes}

        return call

    return wrap


class Handlers:
    """The state of the whole tab, one for every page that shows it, and what the tab 'Pair' does with it."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs, self.draft, self.trial, self.batch = jobs, Draft(), Trial(jobs.host), Batch(jobs)
        self.tools, self.drawing = Tools(jobs.host), PairDrawing(jobs.host, self.draft)
        self.panels = Panels(jobs, self.draft, self.trial, self.batch, tools=self.tools, drawing=self.drawing)

    def restore(self, _values: Values) -> Changes:
        """A page was opened: fill it with everything that was typed and shown before."""
        draft = self.draft
        self.tools.refresh_names()
        with draft.lock:
            panels = self.panels.changes("")
            form = {**draft.values, **draft.ways}
        del panels["files"]  # a page asks more than once, and a late answer would take out what is being uploaded
        overwrite = Props({**panels["overwrite"], "value": form.pop("overwrite")})
        batch = {"batch_folder": self.batch.folder, "batch_overwrite": self.batch.overwrite}
        filled = {**panels, **form, "overwrite": overwrite, **batch, **tools_view.restored(self.tools)}
        return {**filled, **self.test_fields()}

    @report_errors_in("alert")
    def refresh(self, _values: Values) -> Changes:
        """Only the panels that have changed since the page last asked."""
        return {}

    @report_errors_in("alert")
    def keep_draft(self, values: Values) -> Changes:
        """Remember the form. A new name starts without permission to overwrite."""
        is_renamed = values["name"] != self.draft.values["name"]
        kept = {**values, "overwrite": False} if is_renamed else values
        self.draft.set_values(kept)
        self.look_again()
        return {}

    @report_errors_in("alert")
    def take_pictures(self, values: Values) -> Changes:
        """A picture was put in or taken out. A page that was not restored yet sends empty slots, which are ignored.

        Each call is about one slot: calls run at the same time, and an older one may end last.
        """
        if values["seen"]:
            pictures = {role: values[role] for role in PICTURES if role in values}
            self.draft.set_pictures(values.get("shown_pair", ""), **pictures)
            self.look_again()
        return {}

    @report_errors_in("alert")
    def swap(self, values: Values) -> Changes:
        """The original becomes the target, and the target the original."""
        draft = self.draft
        with draft.lock:
            draft.set_pictures(values.get("shown_pair", ""), **{role: values[role] for role in ROLES})
            draft.pairs.get(values.get("shown_pair", "")).swap()
            draft.pairs.revision += 1
        return {}

    @report_errors_in("alert")
    def choose_preset(self, values: Values) -> Changes:
        """Fill in what the preset sets; everything else stays."""
        return self._fill_in("preset", values, preset_values(values["preset"]))

    @report_errors_in("alert")
    def choose_method(self, values: Values) -> Changes:
        """Fill in what the method sets; everything else stays."""
        return self._fill_in("method", values, method_values(values["method"], values["preset"]))

    def _fill_in(self, chosen: str, values: Values, settings: Changes) -> Changes:
        """The settings that a choice sets, unless the page and the draft agree on it and on them.

        Then nobody chose it: gradio 4 reports a choice as a person's that came from the server, as when a page opens.
        """
        if all(values[name] == self.draft.values[name] for name in (chosen, *settings)):
            return {}
        self.draft.set_values({**values, **settings})
        return settings

    @report_errors_in("alert")
    def train(self, values: Values) -> Changes:
        """Queue a job for the form and the pictures as the page has them: their own events may come later."""
        self.draft.alerts["alert"] = ""
        self.draft.set_values(values)
        self.draft.set_pictures(values.get("shown_pair", ""), **{role: values.get(role) for role in PICTURES})
        self.draft.is_refused = True
        job = self.jobs.submit(self._request())
        self.draft.is_refused = False
        self.draft.show(job.id)
        self.draft.trained.add(job.id)
        return self.test_fields()

    def _request(self) -> Request:
        """What the form asks for. Raises an AddiftError for what is missing or cannot be."""
        request = request_of(self.draft.values, self.draft.pairs)
        naming.check(request.name)
        naming.check_free(self.jobs.host.lora_dir, request.name, overwrite=request.overwrite)
        return request

    def look_again(self) -> None:
        """Whether what was wrong when Train was pressed still is: its sentence goes with its cause."""
        if not self.draft.is_refused:
            self.draft.alerts["alert"] = ""
            return
        try:
            self._request()
            self.draft.alerts["alert"], self.draft.is_refused = "", False
        except AddiftError as error:
            self.draft.alerts["alert"] = str(error)

    @report_errors_in("alert")
    def stop(self, _values: Values) -> Changes:
        """End the job on show after its current step."""
        self.jobs.stop(self._job().id)
        return {}

    @report_errors_in("alert")
    def stop_keep(self, _values: Values) -> Changes:
        """The same, and save what was learnt so far."""
        self.jobs.stop(self._job().id, keep=True)
        return {}

    @report_errors_in("alert")
    def show_job(self, values: Values) -> Changes:
        """Show another job of the list."""
        self.draft.show(self.panels.job_id(values["jobs"]))
        return self.test_fields()

    @report_errors_in("alert")
    def show_step(self, values: Values) -> Changes:
        """Show the kept step at the slider's position."""
        self.draft.step = int(values["scrub"] or 0)
        return {}

    @report_errors_in("alert")
    def save_step(self, _values: Values) -> Changes:
        """Save the kept step on show as a LoRA of its own; when it is saved, the newest file is shown."""
        self.draft.alerts["alert"] = ""
        job = self._job()
        snapshot = self.panels.shown_snapshot(job)
        if snapshot is None:
            raise JobError(f"'{job.name}' has no kept step: set 'Strip every' to some steps and train again.")
        self.jobs.save_step(job.id, snapshot.step)
        self.draft.choice = ""
        return {}

    @report_errors_in("alert")
    def show_file(self, values: Values) -> Changes:
        """Show another saved file of the job."""
        self.draft.choice, self.draft.step = str(values["choice"] or ""), 0
        return {}

    @report_errors_in("alert")
    def fill_from_job(self, _values: Values) -> Changes:
        """Fill the form with the request of the job on show."""
        return self.fill_form(self._job().request)

    @report_errors_in("alert")
    def draw_test(self, values: Values) -> Changes:
        """Draw one prompt at several weights of the LoRA on show, with the host's own pipeline."""
        job = self._job()
        result = self.panels.shown_result(job)
        if result is None:
            raise JobError("there is no LoRA to test yet: train one.")
        height, width = job.pair.original.shape[:2]
        try:
            request = TrialRequest(
                result.path.stem, str(values["test_prompt"] or ""), str(values["test_negative"] or ""),
                _seed(values["test_seed"]), width, height, job.request.config.preview_cfg_scale,
                mode=str(values["test_mode"] or MERGE),
            )  # fmt: skip
            self.trial.start(request)
        except JobError as error:  # shown beside the test's own button
            self.trial.task.set_error(str(error))
        return {}

    def fill_form(self, request: Request) -> Changes:
        """Take a request over into the draft, under the next free name; returns the fields of the form."""
        free = naming.next_free(self.jobs.host.lora_dir, request.name)
        self.draft.take_request(replace(request, name=free), preset_of(request.config))
        self.draft.alerts["alert"] = ""
        return {name: value for name, value in self.draft.values.items() if name != "overwrite"}

    def test_fields(self) -> Changes:
        """The fields of the test, as for the latest test if it was of the job on show, or else from that job."""
        job, asked = self.panels.shown_job(), self.trial.request
        if asked is not None and job is not None and any(r.path.stem == asked.lora for r in job.results):
            return {
                "test_prompt": asked.prompt, "test_negative": asked.negative_prompt, "test_seed": asked.seed,
                "test_mode": asked.mode,
            }  # fmt: skip
        if job is None:
            return {}
        config = job.request.config
        return {"test_prompt": preview_prompts(config, 1)[0], "test_seed": config.seed}

    def _job(self) -> Job:
        """The job on show. Raises JobError."""
        job = self.panels.shown_job()
        if job is None:
            raise JobError("nothing was trained yet: put in two pictures and press Train.")
        return job


def _seed(value: Any) -> int:
    if value is None or value != int(value) or not 0 <= value < 2**32:
        raise JobError("the seed of the test must be a whole number from 0 to 4294967295.")
    return int(value)
