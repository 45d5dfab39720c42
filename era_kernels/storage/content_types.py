"""What kind a file is: as its uploader said, kept with the file itself, else as its name says."""

from __future__ import annotations

import mimetypes
import os
import re
from contextlib import suppress

DEFAULT = "application/octet-stream"
_ATTRIBUTE = "user.era_kernels.content_type"  # see xattr(7); it goes where the file goes
_MAX_LENGTH = 255
_MEDIA_TYPE = re.compile(  # a media type with parameters, RFC 9110 section 8.3.1, without tabs
    r"""[\w!#$&^.+-]+/[\w!#$&^.+-]+( *; *[\w!#$&^.+*-]+=([\w!#$%&'*^`|~.+-]+|"[ !#-\[\]-~]*"))*""",
    re.ASCII,
)


def store(descriptor: int, content_type: str) -> None:
    """Note it at the file; in vain where the file system has no user attributes."""
    if _is_media_type(content_type):
        with suppress(OSError):
            os.setxattr(descriptor, _ATTRIBUTE, content_type.encode())


def copy(source: int, target: int) -> None:
    """What is noted at one file is noted at the other; in vain as `store`."""
    with suppress(OSError):
        os.setxattr(target, _ATTRIBUTE, os.getxattr(source, _ATTRIBUTE))


def detect(descriptor: int, path: str) -> str:
    """The type of a file, which is what its uploader said or what its name promises.

    Code may note what it likes, too: only what is a media type counts.
    """
    with suppress(OSError, UnicodeDecodeError):
        stored = os.getxattr(descriptor, _ATTRIBUTE).decode("ascii")
        if _is_media_type(stored):
            return stored
    guessed, encoding = mimetypes.guess_type(f"/{path}")
    return guessed if guessed is not None and encoding is None else DEFAULT


def _is_media_type(content_type: str) -> bool:
    return len(content_type) <= _MAX_LENGTH and _MEDIA_TYPE.fullmatch(content_type) is not None
