"""The parts of the sandbox that run in the server's own process."""
