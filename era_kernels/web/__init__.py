"""HTTP: parse a request, call one thing, write the answer."""
