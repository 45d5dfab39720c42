#!/usr/bin/env python3
"""R2: images as objects, kept with their type and metadata, read whole or in part. Needs httpx."""

from __future__ import annotations

import base64
import os
import struct
import zlib

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
IMAGES = "/api/storage/r2/example-images"
BYTES = {"Accept": "application/octet-stream"}


def chunk(name: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum


def png(red: int, green: int, blue: int) -> bytes:
    """A square of one colour."""
    rows = (b"\0" + bytes([red, green, blue]) * 64) * 64
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        try:
            work(http)
        finally:
            for one in http.get(IMAGES).raise_for_status().json()["objects"]:
                http.delete(IMAGES, params={"key": one["key"]}).raise_for_status()


def work(http: httpx.Client) -> None:
    headers = {"Content-Type": "image/png", "X-Era-Meta-Colour": "red"}
    put = http.put(f"{IMAGES}/squares/red.png", content=png(255, 0, 0), headers=headers)
    print("put as bytes:", put.raise_for_status().json())

    body = {"content": base64.b64encode(png(0, 0, 255)).decode(), "metadata": {"colour": "blue"}}
    put = http.put(f"{IMAGES}/squares/blue.png", json=body)
    print("put as JSON:", put.raise_for_status().json())

    listed = http.get(IMAGES, params={"prefix": "squares/"}).raise_for_status().json()
    print("images:", [one["key"] for one in listed["objects"]])

    got = http.get(f"{IMAGES}/squares/red.png", headers=BYTES).raise_for_status()
    print("got:", got.headers["Content-Type"], got.headers["X-Era-Meta-Colour"])
    assert got.content == png(255, 0, 0)

    part = http.get(f"{IMAGES}/squares/red.png", headers={**BYTES, "Range": "bytes=1-3"})
    print("bytes 1 to 3:", part.status_code, part.content)
    assert part.content == b"PNG"

    shown = http.get(f"{IMAGES}/squares/blue.png").raise_for_status().json()
    print("as JSON:", shown["size"], shown["customMetadata"], shown["etag"])
    assert base64.b64decode(shown["content"]) == png(0, 0, 255)

    once = {"Content-Type": "image/png", "If-None-Match": "*"}
    refused = http.put(f"{IMAGES}/squares/red.png", content=b"other", headers=once)
    print("put only where there is none:", refused.status_code, refused.json()["code"])
    assert refused.status_code == 412


if __name__ == "__main__":
    main()
