"""Stores everything on disk: the data directory, SQLite, event logs, workspaces."""
