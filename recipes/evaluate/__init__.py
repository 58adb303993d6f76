"""How models are measured: one file a metric family. Every number comes with its interval and the digests behind it."""
