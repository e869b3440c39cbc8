"""A target from words: a person's picture, changed as a prompt says."""

from __future__ import annotations

import numpy as np
import torch

from lib_addift.config.prompts import choose_alternatives, shared_caption
from lib_addift.diffusion.host import Model
from lib_addift.diffusion.sampler import ddim_inversion, ddim_timesteps
from lib_addift.drawn_pairs.choose import VISIBLE
from lib_addift.drawn_pairs.decode import as_drawn, drawn_pairs
from lib_addift.drawn_pairs.mask import masks_from_prompts
from lib_addift.drawn_pairs.pair import DrawnPair, DrawSettings
from lib_addift.drawn_pairs.sampling import Way, draw_beside, guided
from lib_addift.errors import ConfigError

STRENGTH = 1.0  # of the noise. On the tiny world 0.8 makes the change in 11 of 16 pictures, 1 in 14 (docs/pairs.md)


@torch.no_grad()
def target_from_words(
    model: Model,
    picture: np.ndarray,
    prompt: str,
    *,
    original_prompt: str = "",
    strength: float = STRENGTH,
    settings: DrawSettings,
) -> DrawnPair:
    """The target of a picture: the same picture as `prompt` describes it. The caller holds the model.

    The picture is taken back to noise by DDIM inversion, and drawn again under the prompt; where the two prompts agree
    about it, it stays as it is.

    Args:
        picture: (H, W, 3) uint8, RGB; H and W multiples of 64. The pair's original, pixel by pixel.
        prompt: what the target shows, with alternatives, {black|red}, chosen by the seed.
        original_prompt: what the picture shows; without it the mask is less exact.
        strength: 0.1 to 1: the more, the more freely the changed area is drawn anew.

    Raises:
        ConfigError: a prompt or the strength cannot be used, or the target is like the picture.

    Source: Couairon et al. 2022 (DiffEdit), section 3.2.
    """
    first, second = (choose_alternatives(each, settings.seed) for each in (original_prompt, prompt))
    if not second or second == first:
        raise ConfigError(f"the prompt '{second}' asks for no change: write what the target shows.")
    if not 0.1 <= strength <= 1:
        raise ConfigError(f"strength = {strength} is out of bounds: it must be from 0.1 to 1.")
    original, changed, negative = model.encode_prompts([first, second, settings.negative_prompt]).float().split()
    clean = model.encode_images(np.stack([picture])).float()
    timesteps = ddim_timesteps(max(1, round(settings.steps * strength)), strength)
    way = Way(timesteps, [*ddim_inversion(model, clean, original, timesteps), clean])
    mask = torch.ones_like(clean[:, :1])
    if settings.blend == "auto":
        mask = masks_from_prompts(model, clean, original, changed, [settings.seed])
    drawn = draw_beside(model, way, changed, mask, guided(negative, settings.guidance))
    caption = shared_caption(first, second)
    pair = drawn_pairs(model, (clean, drawn), [(caption, caption)], [settings.seed], mask)[0]
    result = as_drawn(picture, _with_details(picture, pair), (caption, caption), settings.seed, pair.mask)
    if result.size < VISIBLE:
        raise ConfigError(
            f"'{second}' changes nothing that can be seen in this picture: say in the original's prompt what it shows "
            "now, or use another seed or a higher strength or guidance."
        )
    return result


def _with_details(picture: np.ndarray, drawn: DrawnPair) -> np.ndarray:
    """The drawn target with, outside of its mask, what the VAE has lost of the picture: (H, W, 3) uint8.

    `drawn.original` is the picture as the VAE gives it back. Without this the target would differ everywhere a little.
    """
    if drawn.mask is None:
        return drawn.target
    lost = picture.astype(np.float32) - drawn.original
    target = drawn.target + (1 - drawn.mask[..., None]) * lost
    return np.asarray(target.round().clip(0, 255).astype(np.uint8))
