"""Texts of a run are joined. The rest of a run is tested in test_kernel."""

from __future__ import annotations

from era_kernels.kernels.active_run import merge_adjacent_texts
from era_kernels.models import ClearOutput, Output, Stderr, Stdout


def test_neighbouring_texts_of_one_stream_are_joined() -> None:
    """Order and content stay; only the borders between neighbours of one stream go."""
    events: list[Output] = [
        Stdout("a"),
        Stdout("b"),
        Stderr("c"),
        Stdout("d"),
        ClearOutput(),
        Stdout("e"),
    ]
    assert merge_adjacent_texts(events) == [
        Stdout("ab"),
        Stderr("c"),
        Stdout("d"),
        ClearOutput(),
        Stdout("e"),
    ]
    assert merge_adjacent_texts([ClearOutput(), ClearOutput()]) == [ClearOutput(), ClearOutput()]
    assert merge_adjacent_texts([]) == []
