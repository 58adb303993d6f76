"""One file a metric family."""
