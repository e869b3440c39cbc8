"""Pictures in requests, as base64 and by path, and what is refused of them."""

import base64
import io
import json
import os

import pytest
from PIL import Image, ImageFile

from lib_addift.api import pictures
from lib_addift.demo import world
from tests.support.api import V1, refused


@pytest.mark.parametrize("prefix", ["data:image/png;base64,", "data:;base64,", "\n"])
def test_base64_may_have_a_prefix_and_line_breaks(client, body, prefix):
    text = base64.encodebytes(base64.b64decode(body["original"])).decode()
    assert client.post(f"{V1}/train", json={**body, "original": prefix + text}).status_code == 200


def test_pictures_by_path(client, body, pair_files):
    del body["original"], body["target"]
    body |= {"original_path": str(pair_files[0]), "target_path": "closed.png"}  # absolute, or within a folder
    assert client.post(f"{V1}/train?wait=true", json=body).json()["state"] == "done"


def test_files_outside_the_folders_are_refused_alike_whether_they_exist_or_not(client, body, tmp_path):
    outside = tmp_path / "secret.png"
    outside.write_bytes(base64.b64decode(body.pop("original")))
    beside = tmp_path / "pictures_too"  # its name begins like the allowed folder's
    beside.mkdir()
    (beside / "x.png").write_bytes(outside.read_bytes())
    for there, absent in (
        (outside, tmp_path / "absent.png"),
        ("../secret.png", "../absent.png"),
        (beside / "x.png", beside / "y.png"),
        (tmp_path / "pictures" / ".." / "secret.png", tmp_path / "pictures" / ".." / "absent.png"),
    ):
        texts = []
        for path in map(str, (there, absent)):
            response = client.post(f"{V1}/train", json={**body, "original_path": path})
            texts.append(refused(response, 422, "PictureError", "opens to the API").replace(repr(path), ""))
        assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "/", "a\0b", "\ud800.png", "/dev/zero", "/etc/passwd", "x" * 5000, "~/x.png", "file:///x.png",
     "https://example.org/x.png", r"\\server\share\x.png", "//server/share/x.png", r"C:\Windows\win.ini", "NUL",
     r"\\?\C:\x.png", r"..\..\x.png"],
)  # fmt: skip
def test_odd_paths_are_refused(client, body, path):
    del body["original"]
    content = json.dumps({**body, "original_path": path})
    response = client.post(f"{V1}/train", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.json()["error"] in ("PictureError", "RequestError")  # pydantic 2 refuses half characters itself


def test_links_are_followed_before_they_are_judged(client, body, pair_files, tmp_path):
    del body["original"]
    folder, outside = pair_files[0].parent, tmp_path / "outside"
    outside.mkdir()
    world.draw(world.Face()).save(outside / "secret.png")
    try:
        os.symlink(outside / "secret.png", folder / "link.png")
        os.symlink(outside, folder / "folder", target_is_directory=True)
        os.symlink(folder / "loop.png", folder / "loop.png")
        os.symlink(pair_files[0], folder / "fine.png")
        os.symlink(folder, tmp_path / "way_in", target_is_directory=True)
    except OSError:
        pytest.skip("this system lets us make no links")
    for path in ("link.png", "folder/secret.png", "loop.png", str(tmp_path / "way_in" / "open.png")):
        refused(client.post(f"{V1}/train", json={**body, "original_path": path}), 422, "PictureError")
    assert client.post(f"{V1}/train", json={**body, "original_path": "fine.png"}).status_code == 200


def test_an_allowed_folder_may_itself_be_a_link(make_client, body, pair_files, tmp_path):
    try:
        os.symlink(pair_files[0].parent, tmp_path / "way_in", target_is_directory=True)
    except OSError:
        pytest.skip("this system lets us make no links")
    client = make_client(picture_dirs=[tmp_path / "way_in"])
    del body["original"]
    for number, path in enumerate(("open.png", tmp_path / "way_in" / "open.png", pair_files[0])):
        body |= {"name": f"n{number}", "original_path": str(path)}
        assert client.post(f"{V1}/train", json=body).status_code == 200


def test_without_folders_every_path_is_refused(make_client, body, pair_files):
    client = make_client(picture_dirs=[])
    del body["original"]
    answer = client.post(f"{V1}/train", json={**body, "original_path": str(pair_files[0])})
    refused(answer, 422, "PictureError", "opens no folders", "base64")


def test_a_mask_file_is_a_path_like_others(client, body, pair_files, tmp_path):
    Image.new("L", (64, 64), 255).save(pair_files[0].parent / "mask.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    body["settings"] |= {"mask": "file", "mask_file": str(tmp_path / "mask.png")}
    refused(client.post(f"{V1}/train", json=body), 422, "PictureError", "mask_file", "opens to the API")
    body["settings"]["mask_file"] = "mask.png"
    job = client.post(f"{V1}/train?wait=true", json=body).json()
    assert job["state"] == "done"
    assert client.jobs.get(job["id"]).pair.mask.min() == 1


@pytest.mark.parametrize("way", ["original", "original_path"])
def test_large_pictures_are_refused(client, body, monkeypatch, way):
    monkeypatch.setattr(pictures, "MAX_PICTURE", 1000)
    if way == "original_path":
        body |= {"original": None, "original_path": "open.png"}
    refused(client.post(f"{V1}/train", json=body), 422, "PictureError", "the original", "MB")


def test_base64_is_measured_before_it_is_decoded(client, body, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_ENCODED", 1000)
    refused(client.post(f"{V1}/train", json={**body, "original": "!" * 1001}), 422, "PictureError", "MB")


@pytest.mark.slow
def test_a_bomb_is_refused(client, body):
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")
    body["original"] = base64.b64encode(stream.getvalue()).decode()
    refused(client.post(f"{V1}/train", json=body), 422, "PictureError", "large")


def one_bit_png(width, height):
    """A PNG of a few kB that takes `width * height` bytes and more when it is decoded."""
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize("route", ["train", "pair", "pairs/vary"])
def test_pixels_are_counted_over_all_pictures_before_one_is_decoded(client, body, monkeypatch, route):
    large = one_bit_png(1600, 1000)
    monkeypatch.setattr(pictures, "MAX_REQUEST_PIXELS", 3_000_000)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("a picture was decoded"))
    body |= {"original": large, "target": large}
    if route == "pairs/vary":
        body = {"original": large, "target": large}
    elif route == "pair":
        del body["name"]
    message = refused(client.post(f"{V1}/{route}", json=body), 422, "PictureError", "3 megapixels together")
    assert "2 pictures" in message


def test_pixels_of_more_pairs_and_of_the_mask_count(client, body, pair_files, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_REQUEST_PIXELS", 4 * 64 * 64)
    Image.new("L", (64, 64), 255).save(pair_files[0].parent / "mask.png")
    body["more_pairs"] = [{"original_path": "open.png", "target_path": "closed.png"}]
    assert client.post(f"{V1}/train?wait=true", json=body).json()["state"] == "done"
    body |= {"name": "masked", "settings": {**body["settings"], "mask": "file", "mask_file": "mask.png"}}
    refused(client.post(f"{V1}/train", json=body), 422, "PictureError", "the 5 pictures")


def test_the_number_of_pairs_has_a_limit(client, body):
    body["more_pairs"] = [{"original_path": "absent.png", "target_path": "absent.png"}] * 64
    refused(client.post(f"{V1}/train", json=body), 422, "PictureError", "65 pairs", "at most 64")


@pytest.mark.slow
def test_a_small_request_of_huge_pictures_takes_little_memory(client, body):
    resource = pytest.importorskip("resource")  # not on Windows
    huge = one_bit_png(10_000, 10_000)
    body |= {"original": huge, "target": huge, "more_pairs": [{"original": huge, "target": huge}]}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB
    refused(client.post(f"{V1}/train", json=body), 422, "PictureError", "400 megapixels")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
