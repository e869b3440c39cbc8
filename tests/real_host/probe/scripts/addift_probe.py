"""A second extension, for tests only: test_real_host.py looks at the WebUI's model, and breaks or shortens trainings.

Copy the folder `probe` into the WebUI's `extensions`. Never part of an installation.
"""

import hashlib
import sys
import threading

import torch
from modules import call_queue, script_callbacks, shared
from PIL import Image

FULL = torch.cuda.OutOfMemoryError("CUDA out of memory (simulated)")
FAILURES = {"error": RuntimeError("simulated failure"), "memory": FULL, "memory once": FULL}
EVALUATION = {}  # the functions that `evaluate` has replaced


def _parts():
    """The model's modules by name, wherever this host keeps them."""
    model = shared.sd_model
    objects = getattr(model, "forge_objects_original", None)
    if objects is None:
        return {"unet": model.model.diffusion_model, "vae": model.first_stage_model, "text": model.cond_stage_model}
    return {
        "unet": objects.unet.model.diffusion_model,
        "vae": objects.vae.first_stage_model,
        "text": objects.clip.cond_stage_model,
    }


def _describe(tensor):
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    flags = (str(tensor.dtype), str(tensor.device), tensor.requires_grad, tensor.is_inference(), tensor.grad is None)
    return [*map(str, flags), type(tensor).__name__, hashlib.sha256(data).hexdigest()]


def fingerprint():
    """Of each module its class, hooks, modes and replaced forward; of each tensor its bytes and flags."""
    seen = {}
    with call_queue.queue_lock, torch.no_grad():
        for part, module in _parts().items():
            for name, child in module.named_modules():
                hooks = [child._forward_hooks, child._forward_pre_hooks, child._backward_hooks]
                forward = vars(child).get("forward")
                seen[f"{part} {name} module"] = [
                    type(child).__qualname__,
                    *map(len, hooks),
                    child.training,
                    str(forward),
                ]
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                seen[f"{part} {name}"] = _describe(tensor)
    return seen


def fail(kind: str, step: int):
    """Raise between the forward and the backward pass of this step of the next run; 'none' takes it back.

    'memory' raises in all passes from then on.
    """
    trainer = sys.modules["lib_addift.training.state"]
    original = getattr(trainer, "probed_loss", trainer.difference_loss)
    trainer.probed_loss = original
    if kind == "none":
        trainer.difference_loss = original
        return {"fails": "never"}
    calls = []

    def failing(*args, **kwargs):
        loss = original(*args, **kwargs)
        calls.append(loss)
        if len(calls) >= step:
            if kind != "memory":
                trainer.difference_loss = original
            raise FAILURES[kind]
        return loss

    trainer.difference_loss = failing
    return {"fails": kind}


def evaluate(on: bool):
    """Whether trainings measure and draw what they have learnt, or end after their last step with what is made up.

    On a CPU that takes ten times as long as a few steps.
    """
    run, finish = (sys.modules[f"lib_addift.training.{name}"] for name in ("run", "finish"))
    made_up = {(finish, "round_trip"): lambda *_: finish.RoundTrip(0.8, 1.0, ())}
    for place in ((run, "preview_strip"), (finish, "preview_strip"), (finish, "round_trip_pictures")):
        made_up[place] = lambda *_: Image.new("RGB", (64, 64))
    for (module, name), function in made_up.items():
        original = EVALUATION.setdefault((module, name), getattr(module, name))
        setattr(module, name, original if on else function)
    return {"evaluates": on}


def memory():
    """Bytes of this process now and at most, and of the GPU."""
    import psutil

    used = psutil.Process().memory_info()
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"now": used.rss, "gpu_peak": on_gpu, "threads": threading.active_count()}


def draw(prompt: str):
    """The pixels that the tab's button 'Test' would show for a prompt, as hex."""
    host = sys.modules["lib_addift.webui"].jobs().host
    return host.draw(prompt, seed=1, steps=3, cfg_scale=2.0, width=64, height=64).tobytes().hex()


def add_routes(_demo, app):
    app.add_api_route("/addift-probe/draw", draw, methods=["GET"])
    app.add_api_route("/addift-probe/fingerprint", fingerprint, methods=["GET"])
    app.add_api_route("/addift-probe/fail", fail, methods=["POST"])
    app.add_api_route("/addift-probe/evaluate", evaluate, methods=["POST"])
    app.add_api_route("/addift-probe/memory", memory, methods=["GET"])


script_callbacks.on_app_started(add_routes)
