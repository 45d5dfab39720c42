"""What hostile code may try. Each attack is one function that runs inside a sandbox.

An attack returns what it got, which is a breach; it returns nothing or raises OSError (or is
killed) when it was stopped. `host` tells it where the things are that it must not reach.
"""
