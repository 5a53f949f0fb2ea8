"""One module per language: how its dependencies become a layer, and how its applications start."""
