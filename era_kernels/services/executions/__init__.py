"""Handles one execution: its events from the moment it is queued, its result, its replay."""
