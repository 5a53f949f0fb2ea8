"""How one gets in: HTTP, the command line, and the composition root `rayfold up`."""
