"""One file a kind of step: an iterator of samples to an iterator of samples and rejects."""
