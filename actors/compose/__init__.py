"""Files of Docker Compose, read as components."""
