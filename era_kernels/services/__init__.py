"""Rules that need more than one thing below: live sessions, executions, status."""
