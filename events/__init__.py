"""What happened: the append-only log, the aggregates it tells about, and replay. Knows nothing of Ray, SQL or HTTP."""
