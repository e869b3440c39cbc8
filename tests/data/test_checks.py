"""The pair doctor measures what it says, and says it only when it is so."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.checks import Finding, PairReport, examine, mask_overlay
from lib_addift.data.pairs import ImagePair, load_pair
from lib_addift.demo.world import draw, random_face
from tests.support.pictures import as_jpeg, changed, scene


def examined(original: np.ndarray, target: np.ndarray) -> PairReport:
    return examine(load_pair(original, target, TrainConfig()))


def unhappy(report: PairReport) -> list[Finding]:
    return [finding for finding in report.findings if finding.level != "ok"]


def window(picture: np.ndarray, x: int, y: int, side: int = 128) -> np.ndarray:
    """A part of a larger picture: what a camera sees that points 40 + x, 40 + y px right and down."""
    return picture[40 + y : 40 + y + side, 40 + x : 40 + x + side].copy()


def test_a_good_pair() -> None:
    original = scene(192, 128)
    report = examined(original, changed(original, 40, 60, 24))
    assert (report.width, report.height) == (192, 128)
    assert report.shift == (0, 0)
    assert report.colour_shift == (0, 0, 0)
    # The inverted square, give or take the pixel by which the measurement blurs.
    assert 22**2 <= report.changed_share * 192 * 128 <= 26**2
    assert unhappy(report) == []
    assert report.findings[-1] == Finding("ok", "This is a good pair.")


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("attribute", "values"), [("eyes", ("open", "closed")), ("mouth", ("smiling", "open"))])
def test_demo_pairs_are_good(attribute: str, values: tuple[str, str], seed: int) -> None:
    first, second = (draw(random_face(random.Random(seed), **{attribute: value})) for value in values)
    assert unhappy(examine(load_pair(first, second, TrainConfig()))) == []


@pytest.mark.parametrize("shift", [(2, 0), (-2, 0), (0, 3), (5, -4), (-7, -9), (20, 11)])
@pytest.mark.parametrize("damage", ["none", "change", "jpeg"])
def test_a_shift_is_measured(shift: tuple[int, int], damage: str) -> None:
    wide = scene(220, 220) // 2 + np.random.default_rng(1).integers(0, 60, (220, 220, 1), dtype=np.uint8)
    original, target = window(wide, 0, 0), window(wide, -shift[0], -shift[1])
    if damage == "change":
        target = changed(target, 30, 50, 40)
    if damage == "jpeg":
        target = as_jpeg(target, 80)
    report = examined(original, target)
    assert report.shift == shift
    warnings = [finding.text for finding in unhappy(report) if "moved" in finding.text]
    assert len(warnings) == 1
    for pixels, way in zip(shift, ("right" if shift[0] > 0 else "left", "down" if shift[1] > 0 else "up"), strict=True):
        assert (f"{abs(pixels)} px" in warnings[0] and way in warnings[0]) == bool(pixels)
    assert " and " in warnings[0].split(" against ")[0] or 0 in shift


def test_a_shifted_demo_face_is_noticed_although_its_eyes_changed() -> None:
    for seed in range(30):
        face = random_face(random.Random(seed), style="flat", eyes="open")
        target = np.pad(np.asarray(draw(replace(face, eyes="closed"))), ((5, 0), (0, 3), (0, 0)), mode="edge")[:-5, 3:]
        report = examine(load_pair(draw(face), target, TrainConfig()))
        assert report.shift == (-3, 5)
        assert any("moved" in finding.text for finding in unhappy(report))


@pytest.mark.parametrize(("grain", "largest"), [(2, 30), (5, 24), (8, 24), (32, 9)])
def test_a_shift_is_measured_in_fine_and_in_soft_pictures(grain: int, largest: int) -> None:
    rng = np.random.default_rng(grain)
    for _ in range(20):
        coarse = rng.integers(0, 256, (220 // grain + 2, 220 // grain + 2, 3), dtype=np.uint8)
        wide = np.asarray(Image.fromarray(coarse).resize((220, 220), Image.Resampling.BICUBIC))
        x, y = rng.integers(-largest, largest + 1, 2).tolist()
        assert examined(window(wide, 0, 0), changed(window(wide, -x, -y), 20, 20, 40)).shift == (x, y)


def test_one_pixel_of_shift_is_a_warning_that_offers_to_align() -> None:
    wide = scene(220, 220)
    report = examined(window(wide, 0, 0), window(wide, 1, 0))
    assert report.shift == (-1, 0)
    (warning,) = [finding for finding in unhappy(report) if "moved" in finding.text]
    assert warning.level == "warning"
    assert "1 px to the left" in warning.text
    assert "align = true" in warning.text


def test_an_aligned_pair_says_so_and_is_a_good_one() -> None:
    face = random_face(random.Random(3), style="flat", eyes="open")
    target = np.roll(np.asarray(draw(replace(face, eyes="closed"))), 1, axis=1)
    report = examine(load_pair(draw(face), target, TrainConfig(align=True)))
    assert report.shift == (0, 0)
    assert any("was moved 1 px to the right" in f.text and "moved back" in f.text for f in report.findings)
    assert report.findings[-1].text == "This is a good pair."


def test_pictures_without_anything_in_common_are_not_called_moved() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert examined(*rng.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)).shift == (0, 0)


def test_flat_pictures_have_no_shift() -> None:
    report = examined(np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 200, np.uint8))
    assert report.shift == (0, 0)
    assert report.changed_share == 1


@pytest.mark.parametrize("colour", [(8, 8, 8), (-7, 0, 0), (0, 5, -5)])
def test_a_global_colour_shift_is_measured_away_from_the_change(colour: tuple[int, int, int]) -> None:
    original = scene(256, 256) // 2 + 40
    target = changed((original + np.array(colour)).astype(np.uint8), 60, 60, 60)
    report = examined(original, target)
    np.testing.assert_allclose(report.colour_shift, colour, atol=0.3)
    assert 58**2 <= report.changed_share * 256**2 <= 64**2
    assert [finding.level for finding in unhappy(report)] == ["note"]
    assert f"red {colour[0]:+d}" in unhappy(report)[0].text


def test_a_small_colour_shift_is_forgiven() -> None:
    original = scene(256, 256) // 2 + 40
    report = examined(original, changed(original + 3, 60, 60, 60))
    np.testing.assert_allclose(report.colour_shift, 3, atol=0.2)
    assert unhappy(report) == []


def test_a_large_colour_shift_is_a_change_of_everything() -> None:
    original = scene(256, 256) // 2 + 40
    report = examined(original, original + 50)
    np.testing.assert_allclose(report.colour_shift, 50)
    assert report.changed_share == 1
    assert [finding.level for finding in unhappy(report)] == ["note", "warning"]
    assert "preset 'style'" in unhappy(report)[1].text


def test_a_tiny_change_is_noted() -> None:
    original = scene(512, 512)
    report = examined(original, changed(original, 100, 100, 10))
    assert 0 < report.changed_share < 0.003
    assert [finding.level for finding in unhappy(report)] == ["note"]
    assert "very small" in unhappy(report)[0].text


def test_a_change_below_the_noise_is_noted() -> None:
    original = scene(512, 512)
    target = original.copy()
    target[0, 0] ^= 1
    report = examined(original, target)
    assert report.changed_share == 0
    assert "very small" in unhappy(report)[0].text


@pytest.mark.parametrize(
    ("target", "expected"),
    [("same", "note"), ("other", "warning"), ("opaque", "warning")],
)
def test_transparency_is_said_and_a_mask_offered(target: str, expected: str) -> None:
    original = np.dstack([scene(128, 128), np.full((128, 128), 255, np.uint8)])
    original[:40, :40, 3] = 0
    second = original.copy()
    second[60:90, 60:90, :3] ^= 255
    second[..., 3] = {"same": original[..., 3], "other": original[::-1, :, 3], "opaque": 255}[target]
    (found,) = [finding for finding in examined(original, second).findings if "transparent" in finding.text]
    assert found.level == expected
    assert "mask = alpha" in found.text
    masked = examine(load_pair(original, second[..., :3] if target == "opaque" else second, TrainConfig(mask="alpha")))
    assert not any("transparent" in finding.text for finding in masked.findings)


@pytest.mark.parametrize(
    ("side", "usual", "is_said"), [(64, None, False), (64, 64, False), (192, 512, True), (256, 512, False)]
)
def test_pictures_far_smaller_than_the_models_are_noted(side: int, usual: int | None, is_said: bool) -> None:
    original = scene(side, side)
    report = examine(load_pair(original, changed(original, 10, 10, 24), TrainConfig()), usual)
    assert any("px that this model draws" in finding.text for finding in report.findings) == is_said
    assert all(finding.level in ("ok", "note") for finding in report.findings)


@pytest.mark.parametrize(
    ("squares", "is_good"),
    [
        ([(20, 20, 60)], True),
        ([(20, 20, 60), (20, 110, 30)], True),  # the eyes, say
        ([(2, 2, 60), (194, 194, 60)], False),  # two places
        ([(20, 20, 20)], False),  # smaller than any in the laboratory
        ([(20, 20, 160)], False),  # larger
    ],
)
def test_a_good_pair_is_one_as_the_laboratory_had(squares: list[tuple[int, int, int]], is_good: bool) -> None:
    original = target = scene(256, 256)
    for square in squares:
        target = changed(target, *square)
    texts = [finding.text for finding in examined(original, target).findings]
    assert ("This is a good pair." in texts) == is_good


def test_what_was_cut_is_repeated() -> None:
    report = examined(scene(192, 128), changed(scene(192, 128), 40, 60, 24)[:, 32:160])
    assert report.findings[0].level == "note"
    assert "different proportions" in report.findings[0].text


def test_the_report_goes_through_json() -> None:
    original = scene(128, 128)
    values = examined(original, changed(original, 30, 30, 20)).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert set(values) == {"width", "height", "shift", "colour_shift", "changed_share", "findings"}
    assert values["findings"][0] == {"level": "ok", "text": "Both pictures are 128 x 128 px and stay as they are."}


def test_every_finding_is_a_sentence() -> None:
    original = scene(128, 128)
    for target in (changed(original, 30, 30, 20), 255 - original, np.roll(original, 5, axis=1), original // 2):
        for finding in examined(original, target).findings:
            assert finding.level in {"ok", "note", "warning"}
            assert finding.text[0].isupper()
            assert finding.text.endswith(".")


def test_the_overlay_tints_the_mask_only() -> None:
    original = scene(128, 128)
    mask = np.zeros((128, 128), np.float32)
    mask[:64], mask[64:70] = 1, 0.5
    overlay = mask_overlay(ImagePair(original, original, mask))
    assert isinstance(overlay, Image.Image)
    assert overlay.mode == "RGB"
    tinted, expected = np.asarray(overlay, dtype=float), original.astype(float)
    np.testing.assert_array_equal(tinted[70:], expected[70:])
    for rows, opacity in ((slice(0, 64), 0.5), (slice(64, 70), 0.25)):
        tint = (tinted[rows] - (1 - opacity) * expected[rows]) / opacity
        np.testing.assert_allclose(tint, np.broadcast_to(tint.mean(axis=(0, 1)), tint.shape), atol=3)  # one colour
    np.testing.assert_array_equal(original, scene(128, 128))


def test_the_overlay_without_a_mask_tints_everything() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    overlay = np.asarray(mask_overlay(ImagePair(black, black, None)))
    assert (overlay == overlay[0, 0]).all()
    assert overlay[0, 0, 0] > 100
