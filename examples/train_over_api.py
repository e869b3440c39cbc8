"""Train a LoRA over the HTTP API of a running WebUI, and print how it goes. Only the standard library is needed.

    python examples/train_over_api.py --name closed_eyes --original open.png --target closed.png

The WebUI must run with `--api`; docs/api.md describes the routes.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def main(arguments: list[str] | None = None) -> int:
    """Ask the pair doctor, train, wait. Returns 0, or 1 when the API refused something or the training failed."""
    parser = argparse.ArgumentParser(description="Train a LoRA of the difference of two pictures over the API.")
    parser.add_argument("--url", default="http://127.0.0.1:7860", help="of the WebUI (default: %(default)s)")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="as in the WebUI's --api-auth")
    parser.add_argument("--original", type=Path, required=True, help="the picture as it is")
    parser.add_argument("--target", type=Path, required=True, help="the picture as it should become")
    parser.add_argument("--name", required=True, help="of the LoRA, as in <lora:NAME:1>")
    parser.add_argument("--preset", default="action", help="action, style or detail (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; may be repeated")
    parser.add_argument("--overwrite", action="store_true", help="replace a LoRA of this name")
    parser.add_argument("--strip", type=Path, metavar="FILE", help="save the picture of weights -1 to 1 there")
    options = parser.parse_args(arguments)
    api = Api(options.url, options.auth)
    pair = {
        "original": base64.b64encode(options.original.read_bytes()).decode("ascii"),
        "target": base64.b64encode(options.target.read_bytes()).decode("ascii"),
        "preset": options.preset,
        "settings": dict(map(setting, options.set)),
    }
    try:
        for finding in api.ask("POST", "/pair", pair)["findings"]:
            print(f"{finding['level']}: {finding['text']}")
        job = api.ask("POST", "/train", {**pair, "name": options.name, "overwrite": options.overwrite})
        job = wait(api, job)
        if options.strip and job["result"]:
            options.strip.write_bytes(base64.b64decode(api.ask("GET", f"/jobs/{job['id']}?pictures=true")["strip"]))
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not job["result"]:
        print(f"error: {job['error'] or job['text']}", file=sys.stderr)
        return 1
    print(f"{job['result']['verdict']}\nUse it as {job['result']['tag']}. The file: {job['result']['path']}")
    return 0


def setting(text: str) -> tuple[str, Any]:
    """'rank=8' as ('rank', 8): numbers, true, false and lists as JSON, everything else as text."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


class Api:
    """The routes under /addift/v1 of one WebUI."""

    def __init__(self, url: str, auth: str | None = None) -> None:
        self._base = f"{url.rstrip('/')}/addift/v1"
        self._headers = {"Content-Type": "application/json"}
        if auth:
            self._headers["Authorization"] = f"Basic {base64.b64encode(auth.encode()).decode('ascii')}"

    def ask(self, method: str, route: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer of a route. Raises RuntimeError with the API's own sentence when it refuses."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self._base + route, data, self._headers, method=method)
        try:
            with urllib.request.urlopen(request) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            raise RuntimeError(json.loads(text)["message"] if text.startswith('{"error"') else text) from error
        except urllib.error.URLError as error:
            raise RuntimeError(
                f"{self._base} does not answer ({error.reason}): is the WebUI up, with --api?"
            ) from error


def wait(api: Api, job: dict[str, Any]) -> dict[str, Any]:
    """Look at a job every second until it has ended, and print what has changed."""
    shown = ""
    while True:
        line = f"{job['progress']:4.0%}  {job['text']}"
        if line != shown:
            print(line, flush=True)
        if job["state"] not in ("queued", "running"):
            return job
        shown = line
        time.sleep(1)
        job = api.ask("GET", f"/jobs/{job['id']}")


if __name__ == "__main__":
    sys.exit(main())
