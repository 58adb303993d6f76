"""Runs stages over shards: tasks, resume, rejects, figures; on local processes or a Ray cluster."""
