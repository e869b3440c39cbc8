"""What is known of any diffusion model: the host protocol, noise schedule, sampler, latents and memory."""
