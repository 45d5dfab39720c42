"""Outbound traffic of sessions: which addresses they may reach, and the proxy that leads there."""
