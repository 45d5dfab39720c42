"""Turns magics and shell lines into calls, and leaves every line of a cell at its place."""

from __future__ import annotations

import tokenize
from collections.abc import Callable

from IPython.core.inputtransformer2 import TransformerManager, find_end_of_continued_line
from IPython.utils.tokenutil import generate_tokens_catch_errors

from era_kernel import source_text

MAX_TRANSFORMS = 5000  # magics of one cell that are looked for in all of it


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
        """Transforms all magics; most of them in one pass, each other one in a pass of its own."""
        feed = _StatementFeed(lines, self._transform_statement)
        feed.read_all()
        lines = feed.lines
        for _ in range(MAX_TRANSFORMS):
            is_changed, transformed = self.do_one_token_transform(lines)
            if not is_changed:
                return lines
            lines = _fill_up(transformed, lines)
        raise SyntaxError(f"more than {MAX_TRANSFORMS} magics in one cell")

    def _transform_statement(self, lines: list[str]) -> list[str]:
        """Returns the lines of a statement that is a magic, transformed; others as they are."""
        text = "".join(lines)
        if not any(mark in text for mark in "%!?") and text.lstrip()[:1] not in tuple(",;/"):
            return lines
        if text.rstrip().endswith("?") and any(bracket in text for bracket in "([{"):
            return lines  # whether it asks for help is known at the end of the bracket
        is_changed, transformed = self.do_one_token_transform(lines)
        return _fill_up(transformed, lines) if is_changed else lines


class _StatementFeed:
    """Hands a cell's lines to the tokenizer, and replaces each statement before it is read.

    The tokens after a magic mean nothing, so IPython reads the whole cell again for each one. The
    tokenizer reads line by line, and sees here what a magic has become.
    """

    def __init__(self, lines: list[str], replace: Callable[[list[str]], list[str]]) -> None:
        """`replace` gets the lines of a statement, of which the first may be followed by more."""
        self.lines = list(lines)
        self._replace = replace
        self._index = 0
        self._replaced_until = 0
        self._begins = True  # the next line begins a statement

    def read_all(self) -> None:
        """Reads the lines up to where the tokenizer fails, and replaces statements until there."""
        depth = 0
        try:
            for token in generate_tokens_catch_errors(self._next_line, ["expected EOF"]):
                if token.type == tokenize.NEWLINE or (token.type == tokenize.NL and depth == 0):
                    self._begins = True
                elif token.type == tokenize.OP and token.string in ("(", "[", "{"):
                    depth += 1
                elif token.type == tokenize.OP and token.string in (")", "]", "}"):
                    depth = max(depth - 1, 0)
        except (tokenize.TokenError, SyntaxError):
            pass  # that is told by who reads the result

    def _next_line(self) -> str:
        if self._index == len(self.lines):
            return ""
        index, self._index = self._index, self._index + 1
        if self._begins and index >= self._replaced_until:
            end = find_end_of_continued_line(self.lines, index) + 1
            self.lines[index:end] = self._replace(self.lines[index:end])
            self._replaced_until = end
        self._begins = False
        return self.lines[index]


def _fill_up(transformed: list[str], lines: list[str]) -> list[str]:
    """Returns the transformed lines with empty ones after the line that took in its followers."""
    missing = len(lines) - len(transformed)
    if missing <= 0:
        return transformed
    pairs = enumerate(zip(transformed, lines, strict=False))
    changed = next((at for at, (new, old) in pairs if new != old), len(transformed) - 1)
    return transformed[: changed + 1] + ["\n"] * missing + transformed[changed + 1 :]
