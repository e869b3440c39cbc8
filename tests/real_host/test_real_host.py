"""Against a running WebUI: ADDIFT_REAL_HOST=http://127.0.0.1:7860 python3 install.py test -m real_host tests/real_host

The WebUI runs with --api, has this extension, the folder `probe` beside it in `extensions`, and an SD1.5 checkpoint, of
random weights if need be, or in A1111 a bundled one (lib_addift/experiments/webui_checkpoint.py), which is far quicker.
Nothing here tests beauty: only that the LoRA acts, and that the model is left as it was. One training is evaluated as
usual; the others end after their last step, for on a CPU measuring and drawing take ten times as long as four steps.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_addift.demo import world

ADDRESS = os.environ.get("ADDIFT_REAL_HOST", "")
pytestmark = [pytest.mark.real_host, pytest.mark.skipif(not ADDRESS, reason="ADDIFT_REAL_HOST names no WebUI")]

NAME = "addift_real_host"
PAIR = {"original": "open", "target": "closed"}
SETTINGS: dict[str, Any] = {
    "max_train_steps": 4, "batch_size": 1, "resolution": 64, "sampling_steps": 1, "preview_every": 2,
    "new_pictures": 0, "learning_rate": 1e-2, "calibrate": False, "strength": 4.0,
}  # fmt: skip
LARGER = 128  # px, where one sample is a pass: at 64 px the bundled model's lowest level has no two values to normalise


def call(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(ADDRESS + path, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=900) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return {"status": error.code, **json.loads(error.read())}


def as_base64(face: world.Face, size: int = 64) -> str:
    file = io.BytesIO()
    world.draw(face).resize((size, size)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def train(name: str = NAME, *, eyes: str = "closed", wait: bool = True, more_pairs: Any = (), **settings: Any) -> Any:
    settings = {**SETTINGS, **settings}
    pictures = {"original": world.Face(), "target": world.Face(eyes=eyes, mouth="open")}
    body = {
        **{role: as_base64(face, settings["resolution"]) for role, face in pictures.items()}, "name": name,
        "overwrite": True, "settings": settings, "more_pairs": more_pairs,
    }  # fmt: skip
    return call("POST", f"/addift/v1/train?wait={str(wait).lower()}", body)


def picture(prompt: str, **settings: Any) -> bytes:
    """The pixels of the WebUI's picture of a prompt."""
    body = {
        "prompt": prompt, "seed": 1, "steps": 3, "width": 64, "height": 64, "cfg_scale": 2, "sampler_name": "Euler",
        "do_not_save_samples": True, **settings,
    }  # fmt: skip
    answer = call("POST", "/sdapi/v1/txt2img", body)
    return Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))).convert("RGB").tobytes()


def wait_for(job_id: str, reached: Any) -> Any:
    for _ in range(1200):
        job = call("GET", f"/addift/v1/jobs/{job_id}")
        if reached(job):
            return job
        time.sleep(0.1)
    raise AssertionError(f"not reached: {job}")


@pytest.fixture(scope="module", autouse=True)
def short_trainings() -> Any:
    """Trainings end after their last step."""
    call("POST", "/addift-probe/evaluate?on=false")
    yield
    call("POST", "/addift-probe/evaluate?on=true")


@pytest.fixture(scope="module")
def base() -> bytes:
    """A picture without any LoRA, before anything was trained."""
    return picture("a face")


@pytest.fixture(scope="module")
def pristine(base: bytes) -> dict[str, Any]:
    """The model's fingerprint before anything was trained, after a picture has loaded it."""
    fingerprint: dict[str, Any] = call("GET", "/addift-probe/fingerprint")
    return fingerprint


@pytest.fixture(scope="module")
def trained(pristine: dict[str, Any]) -> Any:
    """A finished LoRA called NAME, measured and drawn as usual."""
    call("POST", "/addift-probe/evaluate?on=true")
    start = time.monotonic()
    job = train(new_pictures=4)
    call("POST", "/addift-probe/evaluate?on=false")
    assert job["state"] == "done", job
    seconds, steps = time.monotonic() - start, job["result"]["train_seconds"]
    sys.stderr.write(
        f"\nclick to usable tag {seconds:.1f} s, of it {SETTINGS['max_train_steps']} steps {steps:.1f} s\n"
    )
    sys.stderr.write(f"memory {call('GET', '/addift-probe/memory')}\n")
    return job["result"]


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest, base: bytes, pristine: dict[str, Any]) -> Any:
    """Whatever a test did: afterwards the model and its picture are as they were."""
    yield
    call("POST", "/addift-probe/fail?kind=none&step=0")
    assert picture("a face") == base
    after = call("GET", "/addift-probe/fingerprint")
    assert changes(pristine, after) == {}
    assert after.keys() == pristine.keys()


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What differs in two fingerprints, but for what reForge and Forge leave after a picture with a LoRA.

    These are new parameters with the old bytes, which need no gradient: reForge's of all layers, Forge's of the text's.
    """
    is_reforge = any(str(value[0]).startswith("disable_weight_init") for value in before.values())

    def is_as_before(key: str, new: list[Any]) -> bool:
        old, is_replaced = before.get(key), is_reforge or key.startswith("text clip_l.transformer")
        return old == new or (is_replaced and old is not None and new == [*old[:2], "False", *old[3:]])  # requires_grad

    return {key: (before.get(key), new) for key, new in after.items() if not is_as_before(key, new)}


def test_the_page_has_the_tab() -> None:
    with urllib.request.urlopen(ADDRESS + "/config", timeout=60) as answer:
        assert "addift_original" in answer.read().decode()


def test_a_trained_lora_acts_at_once_and_only_where_it_is_named(base: bytes, trained: Any) -> None:
    assert picture(f"a face {trained['tag']}") != base
    assert picture(f"a face <lora:{NAME}:0>") == base
    assert picture("a face") == base


def test_the_tabs_own_test_draws_what_txt2img_draws(base: bytes, trained: Any) -> None:
    assert bytes.fromhex(call("GET", "/addift-probe/draw?prompt=a+face")) == base
    assert bytes.fromhex(call("GET", f"/addift-probe/draw?prompt=a+face+%3Clora:{NAME}:1%3E")) != base


def test_a_lora_replaced_under_its_name_acts_as_the_new_one(trained: Any) -> None:
    first = picture(f"a face <lora:{NAME}:1>")
    assert train(eyes="open")["state"] == "done"
    assert picture(f"a face <lora:{NAME}:1>") != first
    assert train()["state"] == "done"
    assert picture(f"a face <lora:{NAME}:1>") == first


def test_a_file_written_or_replaced_by_another_process_is_noticed(base: bytes, trained: Any) -> None:
    path = Path(trained["path"])
    if not path.exists():
        pytest.skip("the WebUI runs on another machine")
    copy, part = path.with_stem(f"{NAME}_copy"), path.with_suffix(".part")
    shutil.copyfile(path, copy)
    first = picture(f"a face <lora:{NAME}_copy:1>")
    assert first != base
    save_file({k: v * (3 if "lora_up" in k else 1) for k, v in load_file(path).items()}, part)
    os.replace(part, copy)
    assert picture(f"a face <lora:{NAME}_copy:1>") not in (first, base)
    assert picture(f"a face <lora:{NAME}:1>") == first


def test_a_timed_tag_acts_between_its_timesteps(base: bytes, trained: Any) -> None:
    always = picture(f"a face <lora:{NAME}:1>")
    timed = picture(f"a face <lora:{NAME}:1:from=1000:to=600>")
    assert len({base, always, timed}) == 3
    assert picture(f"a face <lora:{NAME}:1:from=300:to=200>") == base
    assert picture(f"a face <lora:{NAME}:1>") == always


def copies(trained: Any) -> tuple[str, str]:
    """The finished LoRA, and another that does something else, by name."""
    path = Path(trained["path"])
    if not path.exists():
        pytest.skip("the WebUI runs on another machine")
    other = path.with_stem(f"{NAME}_other")
    save_file({key: -2 * tensor if "lora_up" in key else tensor for key, tensor in load_file(path).items()}, other)
    return NAME, other.stem


def test_loras_that_take_turns_draw_as_loras_that_are_timed(trained: Any) -> None:
    """Three steps of Euler are at the timesteps 999, 499.5 and 0. DPM2's are at 999, 666 and 333, each with a second
    call in the middle before the next.
    """
    a, b = copies(trained)
    windows = {
        "Euler": [(a, 1000, 750), (b, 749, 250), (a, 249, 0)],
        "DPM2": [(a, 1000, 667), (b, 666.5, 334), (a, 333.5, 0)],
    }
    for sampler, turns in windows.items():
        settings = {"sampler_name": sampler, "scheduler": "Uniform"}
        timed = " ".join(f"<lora:{name}:1:from={high}:to={low}>" for name, high, low in turns)
        switched = picture(f"a face <lora:{a}:1:compose=switch> <lora:{b}:1:compose=switch>", **settings)
        assert switched == picture(f"a face {timed}", **settings), sampler
        assert switched != picture(f"a face <lora:{a}:1> <lora:{b}:1>", **settings), sampler
        assert switched != picture("a face", **settings), sampler


def test_a_composite_of_the_same_lora_is_that_lora(base: bytes, trained: Any) -> None:
    a, b = copies(trained)
    alone = picture(f"a face <lora:{a}:1:from=1000:to=0>")
    same = picture(f"a face <lora:{a}:1:compose=composite> <lora:{a}:1:compose=composite>")
    assert max(abs(x - y) for x, y in zip(alone, same, strict=True)) <= 1
    both = picture(f"a face <lora:{a}:1:compose=composite> <lora:{b}:1:compose=composite>")
    assert both not in {base, alone, picture(f"a face <lora:{a}:1> <lora:{b}:1>")}


def test_a_lora_for_the_text_encoder_composes_with_its_part_for_the_unet(base: bytes, trained: Any) -> None:
    a, _b = copies(trained)
    path = Path(trained["path"])
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    tensors = load_file(path)
    width = next(value.shape[1] for key, value in tensors.items() if key.endswith("attn2_to_v.lora_down.weight"))
    down, up = torch.randn(5 * width, generator=torch.Generator().manual_seed(1)).div(2).split([width, 4 * width])
    text = {f"{name}.lora_down.weight": down[None].clone(), f"{name}.lora_up.weight": up[:, None].clone()}
    save_file(tensors | text, path.with_stem(f"{NAME}_text"))
    with_text = picture(f"a face <lora:{NAME}_text:1:compose=switch>")
    assert with_text not in {base, picture(f"a face <lora:{a}:1:compose=switch>")}
    assert picture(f"a face <lora:{NAME}_text:0:1:compose=switch>") == picture(f"a face <lora:{a}:1:compose=switch>")


def test_a_stopped_run_saves_nothing_and_may_be_kept() -> None:
    job = train("addift_stopped", wait=False, max_train_steps=12)
    wait_for(job["id"], lambda job: job["step"] >= 1)
    stopped = call("POST", f"/addift/v1/jobs/{job['id']}/stop?wait=true")
    assert stopped["state"] == "stopped"
    assert stopped["saved_steps"] == []
    job = train("addift_stopped", wait=False, max_train_steps=12)
    wait_for(job["id"], lambda job: job["step"] >= 1)
    kept = call("POST", f"/addift/v1/jobs/{job['id']}/stop?keep=true&wait=true")
    assert [saved["name"] for saved in kept["saved_steps"]] == [f"addift_stopped-step{kept['step']}"]


def test_several_pairs_wait_in_the_queue_and_are_learnt() -> None:
    pictures = {name: as_base64(world.Face(eyes=eyes, hair="red")) for name, eyes in PAIR.items()}
    call("POST", "/addift/v1/queue/pause")
    try:
        job = train("addift_two_pairs", wait=False, more_pairs=[{**pictures, "original_prompt": "red hair"}])["id"]
        first = train("addift_first", wait=False, max_train_steps=2)["id"]
        queue = call("POST", f"/addift/v1/jobs/{first}/move?before={job}")
        assert (queue["paused"], queue["waiting"]) == (True, [first, job])
        call("POST", f"/addift/v1/jobs/{first}/stop")
        call("DELETE", f"/addift/v1/jobs/{first}")
    finally:
        assert call("POST", "/addift/v1/queue/resume")["paused"] is False
    done = call("GET", f"/addift/v1/jobs/{job}?wait=true")
    assert (done["state"], done["total"]) == ("done", SETTINGS["max_train_steps"])
    assert first not in [each["id"] for each in call("GET", "/addift/v1/jobs")]


@pytest.mark.parametrize("kind", ["error", "memory"])
def test_a_run_that_fails_in_the_middle_leaves_the_model_usable(kind: str) -> None:
    call("POST", f"/addift-probe/fail?kind={kind}&step=3")
    job = train("addift_failing", resolution=LARGER)
    call("POST", "/addift-probe/fail?kind=none&step=0")
    assert job["state"] == "failed"
    assert ("simulated failure" if kind == "error" else "memory is full") in job["error"]
    assert train("addift_failing")["state"] == "done"


def test_a_full_gpu_makes_the_step_smaller_and_the_run_goes_on() -> None:
    call("POST", "/addift-probe/fail?kind=memory%20once&step=3")
    job = train("addift_full", resolution=LARGER)
    assert job["state"] == "done"
    assert job["losses"] == pytest.approx(train("addift_full", resolution=LARGER)["losses"], rel=1e-3)


def test_a_picture_asked_for_during_training_comes_out_right(base: bytes) -> None:
    job = train("addift_meanwhile", wait=False, max_train_steps=6, preview_every=0)
    wait_for(job["id"], lambda job: job["state"] == "running" and job["step"] >= 1)
    with ThreadPoolExecutor() as pool:
        meanwhile = pool.submit(picture, "a face")
        assert meanwhile.result() == base
    assert wait_for(job["id"], lambda job: job["state"] == "done")


def test_after_a_lora_picture_training_starts_from_the_plain_model(trained: Any) -> None:
    picture("a face")
    plain = train()["losses"]
    picture(f"a face <lora:{NAME}:2>")  # leaves the LoRA merged in the model
    assert train(gradient_checkpointing=True)["losses"] == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"precision": "bf16"}, "precision = bf16"), ({"rank": 0}, "rank = 0"), ({"ranks": 4}, "'ranks' is no setting")],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(settings: dict[str, Any], words: str) -> None:
    job = train(**settings)
    assert words in str(job)
