"""The schema's history, run by `Database.migrate`. Each step stands by itself and imports no current table."""
