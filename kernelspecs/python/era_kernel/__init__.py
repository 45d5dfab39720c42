"""Makes IPython's kernel behave like the plain interpreter."""
