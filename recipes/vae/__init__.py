"""The small autoencoder: pixels to the latents that the tiny diffusion systems live in."""
