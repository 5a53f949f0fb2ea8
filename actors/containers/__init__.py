"""Container images, registries and the engine that builds and runs them, through the Docker API."""
