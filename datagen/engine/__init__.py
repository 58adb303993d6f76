"""Runs stages over shards: tasks, resume, rejects, metrics; on local processes or a Ray cluster."""
