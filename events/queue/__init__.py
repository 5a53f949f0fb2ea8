"""The task queue: topics of tasks that are claimed, done once, and ordered per key. Knows nothing of who works."""
