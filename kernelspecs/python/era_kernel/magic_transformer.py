"""Turns magics and shell lines into calls, and leaves every line of a cell at its place."""

from __future__ import annotations

from IPython.core.inputtransformer2 import TransformerManager

from era_kernel import source_text

MAX_TRANSFORMS = 5000  # magics and shell lines of one cell


class LineKeepingTransformer(TransformerManager):
    """IPython's transformations; a call stands where its magic began, and nothing moves up."""

    def __init__(self) -> None:
        super().__init__()
        # Only what neither moves nor changes lines of valid Python.
        self.cleanup_transforms = [
            transform
            for transform in self.cleanup_transforms
            if getattr(transform, "__name__", "") == "cell_magic"
        ]

    def transform_cell(self, cell: str) -> str:
        """Returns the cell with calls for its magics, of which each takes as many lines."""
        lines = source_text.split_lines(source_text.normalize(cell)) or ["\n"]
        for transform in self.cleanup_transforms + self.line_transforms:
            lines = transform(lines)
        return "".join(self.do_token_transforms(lines))

    def do_token_transforms(self, lines: list[str]) -> list[str]:
        for _ in range(MAX_TRANSFORMS):
            is_changed, transformed = self.do_one_token_transform(lines)
            if not is_changed:
                return lines
            lines = _fill_up(transformed, lines)
        raise SyntaxError(f"more than {MAX_TRANSFORMS} magics in one cell")


def _fill_up(transformed: list[str], lines: list[str]) -> list[str]:
    """Returns the transformed lines with empty ones after the line that took in its followers."""
    missing = len(lines) - len(transformed)
    if missing <= 0:
        return transformed
    pairs = enumerate(zip(transformed, lines, strict=False))
    changed = next((at for at, (new, old) in pairs if new != old), len(transformed) - 1)
    return transformed[: changed + 1] + ["\n"] * missing + transformed[changed + 1 :]
