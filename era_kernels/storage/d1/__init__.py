"""Stores SQL databases, one for each namespace, and runs hostile SQL in workers."""
