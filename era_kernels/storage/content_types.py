"""Keeps the content type that an uploader named with the file, and guesses all others."""

from __future__ import annotations

import mimetypes
import os
import re
from contextlib import suppress

DEFAULT = "application/octet-stream"
_ATTRIBUTE = "user.era_kernels.content_type"  # see xattr(7); it moves with the file
_MAX_LENGTH = 255
_MEDIA_TYPE = re.compile(  # a media type with parameters, RFC 9110 section 8.3.1, without tabs
    r"""[\w!#$&^.+-]+/[\w!#$&^.+-]+( *; *[\w!#$&^.+*-]+=([\w!#$%&'*^`|~.+-]+|"[ !#-\[\]-~]*"))*""",
    re.ASCII,
)


def store(descriptor: int, content_type: str) -> None:
    """Stores the content type with the file, if the file system has user attributes."""
    if is_media_type(content_type):
        with suppress(OSError):
            os.setxattr(descriptor, _ATTRIBUTE, content_type.encode())


def copy(source: int, target: int) -> None:
    """Copies the stored content type from one file to another, where `store` can store one."""
    with suppress(OSError):
        os.setxattr(target, _ATTRIBUTE, os.getxattr(source, _ATTRIBUTE))


def detect(descriptor: int, path: str) -> str:
    """Returns the content type that is stored with a file, else one guessed from its name.

    Code may store any text, too: only a media type counts.
    """
    with suppress(OSError, UnicodeDecodeError):
        stored = os.getxattr(descriptor, _ATTRIBUTE).decode("ascii")
        if is_media_type(stored):
            return stored
    guessed, encoding = mimetypes.guess_type(f"/{path}")
    return guessed if guessed is not None and encoding is None else DEFAULT


def is_media_type(content_type: str) -> bool:
    """Returns whether a text is a media type, perhaps with parameters, that is not too long."""
    return len(content_type) <= _MAX_LENGTH and _MEDIA_TYPE.fullmatch(content_type) is not None
