"""The small autoencoder: pixels to the latents that the tiny diffusion systems live in."""

from lt.recipes.system import System

SYSTEM = System(
    about="The small autoencoder of the tiny diffusion systems: 64 pixels to 16x16x8 latents.",
    recipe="lt.recipes.vae.objective:RECIPE",
)
