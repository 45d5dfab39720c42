"""Runs statements in a process of its own, which may be killed; standard library only."""
