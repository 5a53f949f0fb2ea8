"""How one gets in: HTTP, the command line, and the composition root `rayfold up`."""

VERSION = "0.1.0"
