"""Parses large JSON of which some parts are only passed on: they become text again at once.

Small values take many times the size of their text: a million empty arrays are 3 MB, and 72 in
memory.
"""

from __future__ import annotations

from typing import Any

from era_kernels.concurrency.cooperative import Stepwise
from era_kernels.json_incremental.encoded_json import EncodedJson
from era_kernels.json_incremental.encoding import iterencode
from era_kernels.json_incremental.parsing import JsonBytes, Parser

STEP_BYTES = 32 * 1024  # bytes of text whose values are kept until they are encoded

_ITEM_DEPTH = 3  # containers around an item: what has the whole, the whole, the named object
_ENCODED = object()  # stands for a value whose text is there already

_Container = list[Any] | dict[str, Any]


def iterparse_encoding_items(
    data: JsonBytes, max_values: int, max_depth: int, names: frozenset[str]
) -> Stepwise[Any]:
    """Parses a JSON text as `iterparse` does; `names` are those of objects in the outermost one.

    Large arrays and objects that are items of these become `EncodedJson`. A name that an object in
    them has twice may stay there twice.
    """
    return _ItemEncodingParser(data, max_values, max_depth, names).parse()


class _ItemEncodingParser(Parser):
    """Encodes what it has parsed of an item, step by step, while the item goes on."""

    def __init__(
        self, data: JsonBytes, max_values: int, max_depth: int, names: frozenset[str]
    ) -> None:
        super().__init__(data, max_values, max_depth)
        self.room_until = STEP_BYTES
        self._names = names
        self._pieces: list[bytes] = []  # the text of the item so far
        # For each container that has begun in the text and is still open: whether it has items.
        self._has_items: list[bool] = []

    def make_room(self) -> Stepwise[None]:
        """Encodes all that is there of the open item, and of the open containers in it."""
        self.room_until = self.position + STEP_BYTES
        if len(self._stack) < _ITEM_DEPTH or self._stack[1][1] not in self._names:
            return
        for depth, (container, key) in enumerate(self._stack[_ITEM_DEPTH:]):
            yield from self._encode(depth, container)
            if depth + 1 == len(self._has_items):
                self._begin_item(depth)
                if isinstance(container, dict):
                    self._pieces += [*iterencode(key), b":"]
        yield from self._encode(len(self._stack) - _ITEM_DEPTH, self._container)

    def _encode(self, depth: int, container: _Container) -> Stepwise[None]:
        """Moves the items of a container to the text, which it begins if it has not yet."""
        if depth == len(self._has_items):
            self._pieces.append(b"{" if isinstance(container, dict) else b"[")
            self._has_items.append(False)
        if not container:
            return
        self._begin_item(depth)
        pieces = []
        for piece in iterencode(container):
            if piece:
                pieces.append(piece)
            yield
        pieces[0] = pieces[0][1:]  # without the brackets
        pieces[-1] = pieces[-1][:-1]
        self._pieces += pieces
        container.clear()

    def _begin_item(self, depth: int) -> None:
        if self._has_items[depth]:
            self._pieces.append(b",")
        self._has_items[depth] = True

    def _parse_after_value(self) -> Stepwise[Any]:
        depth = len(self._stack) - _ITEM_DEPTH
        value = yield from super()._parse_after_value()
        if value is self.NO_VALUE or depth < 0 or depth >= len(self._has_items):
            return value
        yield from self._encode(depth, value)
        self._has_items.pop()
        self._pieces.append(b"}" if isinstance(value, dict) else b"]")
        if depth:
            return _ENCODED
        whole, self._pieces = EncodedJson(self._pieces), []
        return whole

    def _add_value(self, value: Any) -> None:
        if value is not _ENCODED:
            super()._add_value(value)
