"""Parses and encodes large JSON in short steps, so that other work can run in between.

The interpreter's own parser is quicker, but cannot be interrupted, and holds the interpreter's lock
also in a thread: an image of 50 MB or a list of a million items stops the server for as long.
"""

from era_kernels.json_incremental.encoded_json import EncodedJson
from era_kernels.json_incremental.encoding import iterencode
from era_kernels.json_incremental.freeing import free_in_steps, free_stepwise
from era_kernels.json_incremental.item_encoding import iterparse_encoding_items
from era_kernels.json_incremental.parsing import JsonBytes, SanitizedDict, iterparse
from era_kernels.json_incremental.sizes import (
    CHUNK_CHARS,
    LARGE_BYTES,
    VALUE_OVERHEAD_BYTES,
    estimate_size,
)
from era_kernels.json_incremental.strict_parsing import iterparse_strictly
from era_kernels.json_incremental.utf8_text import LONG_TEXT_BYTES, Utf8Text
