"""Everything that knows the disk: the data directory, SQLite, event logs, workspaces."""
