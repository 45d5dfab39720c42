"""Measures what the server costs beside a kernel that is driven directly."""
