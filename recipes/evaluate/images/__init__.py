"""How good drawn pictures are: distances between sets of pictures, likeness to the prompt, fidelity to the controls."""
