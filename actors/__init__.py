"""Who acts: the Ray actors that read the log and change the world. Ray lives here and nowhere below."""
