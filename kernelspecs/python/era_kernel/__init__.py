"""Makes IPython's kernel behave like the plain interpreter."""

from era_kernel import early_binding

early_binding.begin()
