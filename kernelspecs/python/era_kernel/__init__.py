"""The Python kernel: IPython's, made to behave like the plain interpreter."""
