"""Several readers, slow or cut off, each get many lines without a wrong byte."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.client import Client
from tests.server_process import Server
from tests.stream_readers import StreamReader, read_in_parts, slow_stream_reader, start_run

CUTS = 10
CODE = "for n in range({count}):\n    print(n, 'é☃'[n % 2] * (n % 5))"


def written(count: int) -> str:
    """Returns the text that the program prints."""
    return "".join(f"{n} {'é☃'[n % 2] * (n % 5)}\n" for n in range(count))


def check(reader: StreamReader, expected: str) -> None:
    """Checks text and numbers: byte for byte, from 1 without gap or repeat."""
    assert reader.has_ended
    assert reader.events[-1].data["exit_code"] == 0
    assert [frame.id for frame in reader.events] == list(range(1, len(reader.events) + 1))
    assert [frame.event for frame in reader.events].count("done") == 1
    found = reader.text()
    assert len(found) == len(expected)
    assert found == expected


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(100_000, id="short"),
        pytest.param(1_000_000, id="long", marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
)
def test_three_readers(server: Server, client: Client, count: int) -> None:
    """Three readers, a late one and the stored text each have everything once.

    One reader is fast, one is slow with hardly any buffer, and one is cut off ten times at random
    places and goes on with `Last-Event-ID`.
    """
    seed = random.randrange(1 << 32)
    print("seed", seed)
    expected = written(count)
    session = client.session("python")
    began = time.monotonic()
    path = start_run(server.base_url, session.id, CODE.format(count=count), timeout=600)
    where = (server.base_url, path)
    longest = len(expected.encode()) // CUTS  # so that all cuts fall before the end
    with ThreadPoolExecutor(3) as pool:
        working = [
            pool.submit(StreamReader().read, *where),
            pool.submit(slow_stream_reader().read, *where),
            pool.submit(read_in_parts, *where, CUTS, longest, random.Random(seed)),
        ]
        readers = [one.result() for one in working]
    for reader in readers:
        check(reader, expected)
    assert [reader.connection_count for reader in readers] == [1, 1, CUTS + 1]
    check(StreamReader().read(*where), expected)
    text = client.http.get(path.replace("/stream", "/stdout"))
    assert text.content == expected.encode()
    seconds = time.monotonic() - began
    print(
        f"{count} lines, {len(text.content)} bytes, {readers[0].last_seq} events: {seconds:.1f} s"
    )
    session.delete()
