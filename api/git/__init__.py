"""Pushing to the platform with git: its smart HTTP protocol, spoken by git itself."""
