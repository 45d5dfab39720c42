"""The commands that work on stored data, through a running server or on its directory."""
