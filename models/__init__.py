"""The mathematics of the papers, in pure PyTorch: no files, no printing, one file a paper; shared blocks live in `nn/`."""
