"""Holds what asyncio lacks: background tasks, and long work in short steps."""
