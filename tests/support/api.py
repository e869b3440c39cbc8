"""What the tests of the HTTP API share: its routes, small settings, and the form of answers."""

import base64
import io
import threading

from PIL import Image

from tests.support.fake_host import FakeHost

V1 = "/addift/v1"
QUICK = {"max_train_steps": 4, "preview_every": 2, "sampling_steps": 2, "resolution": 64, "precision": "fp32"}
ROUTES = {
    ("post", "/train"),
    ("get", "/jobs"),
    ("get", "/jobs/{job_id}"),
    ("delete", "/jobs/{job_id}"),
    ("post", "/jobs/{job_id}/stop"),
    ("post", "/jobs/{job_id}/retry"),
    ("post", "/jobs/{job_id}/move"),
    ("get", "/queue"),
    ("post", "/queue/pause"),
    ("post", "/queue/resume"),
    ("get", "/jobs/{job_id}/steps/{step}"),
    ("post", "/jobs/{job_id}/steps/{step}/save"),
    ("get", "/presets"),
    ("get", "/config"),
    ("post", "/pair"),
    ("post", "/pairs/from-words"),
    ("post", "/pairs/vary"),
    ("post", "/pairs/target"),
}


class GatedHost(FakeHost):
    """Predicts only while its gate is open; `begun` tells that a job is at work."""

    def __init__(self, *args, **keywords):
        super().__init__(*args, **keywords)
        self.gate, self.begun = threading.Event(), threading.Event()
        self.gate.set()

    def predict_noise(self, latents, timesteps, cond):
        self.begun.set()
        assert self.gate.wait(30)
        return super().predict_noise(latents, timesteps, cond)


def encoded(file):
    return base64.b64encode(file.read_bytes()).decode()


def refused(response, code, error, *words):
    """Whether a request was refused in the form that every route promises."""
    assert response.status_code == code, response.text
    answer = response.json()
    assert set(answer) == {"error", "message"}
    assert answer["error"] == error
    for word in words:
        assert word in answer["message"]
    assert "\n" not in answer["message"]
    return answer["message"]


def picture(text):
    opened = Image.open(io.BytesIO(base64.b64decode(text)))
    assert opened.format == "PNG"
    return opened
