"""Runs one session: its queue of runs, its machine and its workspace."""
