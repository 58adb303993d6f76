"""PanGu-Draw: two generators that share the time line, control branches, Coop-Diffusion."""
