"""The HTTP side: parses a request, calls one service and writes the answer."""
