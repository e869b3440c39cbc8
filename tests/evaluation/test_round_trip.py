"""The round trip, on a model whose right answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.latents import LatentPair, Side
from lib_addift.evaluation.round_trip import (
    _NEARLY,
    WEIGHTS_TRIED,
    RoundTrip,
    _Probe,
    round_trip,
    round_trip_at,
    round_trip_pictures,
)
from tests.support.painter_host import PainterHost, painting_lora

CELL = 128  # px a picture has in a labelled row; those of 64 px are enlarged


def painted_proof(
    learnt: torch.Tensor, difference: torch.Tensor, mask: torch.Tensor | None = None, host: PainterHost | None = None
) -> RoundTrip:
    """The round trip of a LoRA that moves the picture by `learnt` at weight 1; the pair differs by `difference`."""
    host = host or PainterHost(difference.numel())
    network = painting_lora(host, learnt)
    cond = Conditions(torch.zeros(1, 5, 6))
    pair = LatentPair(Side(torch.zeros_like(difference), cond), Side(difference, cond), mask)
    with network.attach():
        return round_trip(host, network, [pair], TrainConfig.create("action", sampling_steps=3))


def test_at_one_weight_nothing_else_is_tried() -> None:
    host, cond = PainterHost(DIFFERENCE.numel()), Conditions(torch.zeros(1, 5, 6))
    pair = LatentPair(Side(torch.zeros_like(DIFFERENCE), cond), Side(DIFFERENCE, cond), None)
    network, config = painting_lora(host, DIFFERENCE), TrainConfig.create("action", sampling_steps=3)
    with network.attach():
        half = round_trip_at(host, network, [pair], config, 0.5)
        backwards = round_trip_at(host, network, [pair], config, -1.0)
    assert half == RoundTrip(pytest.approx(0.75, abs=1e-3), 0.5, ((0.5, half.recovery),), is_figure_only=True)
    assert backwards.recovery == 0.0


DIFFERENCE = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def best_score(proof: RoundTrip) -> float:
    return max(score for _, score in proof.curve)


WEIGHTS = [0.25, 0.3, 0.55, 0.75, 0.9, 1.5, 2.4, -0.25, -0.5]


@pytest.mark.parametrize("weight", WEIGHTS)
def test_every_score_of_the_round_trip_is_the_share_that_is_reproduced(weight: float) -> None:
    """At w, w / weight of the difference appears: 1 - (w / weight - 1)^2 is left of its square."""
    for tried, score in painted_proof(DIFFERENCE / weight, DIFFERENCE).curve:
        assert score == pytest.approx(1 - (tried / weight - 1) ** 2, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_round_trip_finds_the_weight_that_reproduces_the_difference(weight: float) -> None:
    """Nearly: of the weights that are almost as good as the best, the weakest is taken."""
    proof = painted_proof(DIFFERENCE / weight, DIFFERENCE)
    # The score is 1 - (w / weight - 1)^2 here, so 0.98 of the best is met at 0.86 of the weight; the grid may miss it.
    assert 0.83 <= proof.weight / weight <= 1.7
    assert proof.recovery == pytest.approx(dict(proof.curve)[proof.weight])
    assert proof.recovery >= 0.75 * _NEARLY, "the coarsest part of the grid, backwards, meets 0.75 of it"


@pytest.mark.parametrize("weight", [0.7, 0.8, 0.9, 1.1])
def test_where_most_loras_have_their_best_weight_the_round_trip_tries_few(weight: float) -> None:
    assert len(painted_proof(DIFFERENCE / weight, DIFFERENCE).curve) <= WEIGHTS_TRIED <= 6


@pytest.mark.parametrize("top", [-1.0, 1.0, 8.0, 14.0])
def test_a_top_behind_a_dip_is_found_where_the_near_one_is_no_proof(
    top: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two peaks in units of the training multiplier: one of 0.15 where the search begins, and the LoRA's own."""

    def score(weight: float) -> float:
        units = weight / TrainConfig().train_multiplier
        return max(0.15 - (units - 3) ** 2, 0.9 - ((units - top) / (0.3 * top)) ** 2, -0.5)

    monkeypatch.setattr(_Probe, "scores", lambda _self, weights: {weight: score(weight) for weight in weights})
    proof = painted_proof(DIFFERENCE, DIFFERENCE)
    assert proof.weight / TrainConfig().train_multiplier == pytest.approx(top, rel=0.1)
    assert proof.recovery >= 0.9 * _NEARLY


def test_the_verdict_is_a_sentence_for_each_outcome() -> None:
    assert painted_proof(DIFFERENCE / 0.5, DIFFERENCE).verdict.startswith("The LoRA reproduces ")
    backwards = painted_proof(-DIFFERENCE / 0.25, DIFFERENCE)
    assert backwards.weight < 0
    assert "at a negative weight only" in backwards.verdict
    assert "not turned round" in backwards.verdict
    nothing = painted_proof(torch.zeros_like(DIFFERENCE), DIFFERENCE)
    assert nothing.verdict.startswith("The LoRA did not learn the difference: it reproduces 0% of it.")


def test_a_lora_that_learnt_something_else_is_found_out() -> None:
    other = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(6))
    proof = painted_proof(other, DIFFERENCE)
    assert proof.recovery < 0.1
    assert proof.verdict.startswith("The LoRA did not learn the difference")
    assert painted_proof(torch.zeros_like(DIFFERENCE), DIFFERENCE).recovery == 0.0


def test_half_of_the_difference_counts_as_half() -> None:
    half = DIFFERENCE.clone()
    half[..., :4] = 0
    share = (half.square().sum() / DIFFERENCE.square().sum()).item()
    proof = painted_proof(half / 0.75, DIFFERENCE)
    assert best_score(proof) == pytest.approx(share, abs=1e-4)
    assert 0.99 * _NEARLY * share <= proof.recovery <= share + 1e-4


def test_changes_outside_the_mask_count_little() -> None:
    mask = torch.full((1, 1, 8, 8), 1e-6)
    mask[..., :4] = 1.0
    inside = DIFFERENCE * (mask == 1)
    noisy = inside + 5 * (DIFFERENCE - inside)
    assert best_score(painted_proof(noisy / 0.75, inside, mask)) == pytest.approx(1.0, abs=1e-3)
    assert painted_proof(noisy / 0.75, inside).recovery < 0.2


def test_a_mask_that_is_the_same_everywhere_changes_no_score() -> None:
    even = painted_proof(DIFFERENCE, DIFFERENCE, mask=torch.full((1, 1, 8, 8), 0.3))
    assert dict(even.curve) == pytest.approx(dict(painted_proof(DIFFERENCE, DIFFERENCE).curve), rel=1e-4, abs=1e-4)


def test_the_curve_holds_every_weight_that_was_tried() -> None:
    proof = painted_proof(DIFFERENCE, DIFFERENCE)
    weights = [weight for weight, _ in proof.curve]
    assert weights == sorted(set(weights))
    assert {0.75, 1.0, 1.5} <= set(weights), "the best one, and one on each side of it"
    assert dict(proof.curve)[1.0] == pytest.approx(1.0, abs=1e-4)


def test_where_nothing_is_reproduced_both_directions_were_tried() -> None:
    curve = dict(painted_proof(-DIFFERENCE / 20, DIFFERENCE).curve)
    assert {-0.25, 0.25, 3.5, -3.5} <= set(curve)
    assert curve[0.25] == pytest.approx(1 - (1 + 0.25 / 20) ** 2, abs=1e-3), "the wrong way: farther off than nothing"


class OverflowingHost(PainterHost):
    """A half-precision model that overflows when the LoRA moves it too far."""

    limit = 1.1 * DIFFERENCE.abs().max()

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        moved = self.unet["canvas"](torch.ones(len(latents), 1)).abs().amax(dim=1).view(-1, 1, 1, 1)
        return super().predict_noise(latents, timesteps, cond).masked_fill(moved > self.limit, float("nan"))


def test_weights_at_which_the_model_overflows_do_not_hide_the_best() -> None:
    proof = painted_proof(DIFFERENCE / 0.75, DIFFERENCE, host=OverflowingHost(DIFFERENCE.numel()))
    assert 0.75 * 0.85 <= proof.weight <= 0.75
    assert proof.recovery > 0.97


def test_the_pictures_of_the_round_trip_show_both_ways() -> None:
    """The painter ends at the picture it sees, moved by what the LoRA adds at +weight or at -weight."""
    host, learnt = PainterHost(DIFFERENCE.numel()), 0.2 * DIFFERENCE
    network, cond = painting_lora(host, learnt), Conditions(torch.zeros(1, 5, 6))
    original, target = torch.full_like(DIFFERENCE, -0.5), torch.full_like(DIFFERENCE, 0.5)
    with network.attach():
        row = round_trip_pictures(
            host, network, LatentPair(Side(original, cond), Side(target, cond), None), TrainConfig.create("action"), 1.5
        )
    seen = host.seen
    expected = [original, seen, seen + 1.5 * learnt, target, seen, seen - 1.5 * learnt]
    assert row.width == 6 * CELL
    for place, latents in enumerate(expected):
        shown = np.asarray(row)[:CELL:2, place * CELL : (place + 1) * CELL : 2].astype(int)
        assert abs(shown - host.decode_latents(latents)[0]).max() <= 1, f"picture {place}"
