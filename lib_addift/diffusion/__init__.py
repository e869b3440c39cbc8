"""What holds for any diffusion model: host protocols, conditions, noise schedule, sampler, latents and memory."""
