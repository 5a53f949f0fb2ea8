"""Application templates: what an app comes to as one, what an upgrade would change, and the file it travels in."""
