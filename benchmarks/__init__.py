"""Each module measures one thing and prints one JSON line; each runs its peer in the same run."""
