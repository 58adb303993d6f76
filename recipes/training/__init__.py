"""The one training loop and all that it needs: what a system must say, the order of samples, checkpoints, resume."""
