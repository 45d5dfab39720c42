"""Makes IPython's kernel behave like the plain interpreter."""

from era_kernel import library_copies

library_copies.begin()
