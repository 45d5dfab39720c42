"""Prints a known line by means of a class, a comprehension and text beyond ASCII."""

from dataclasses import dataclass


@dataclass
class Answer:
    parts: list[int]

    def total(self) -> int:
        return sum(part * part for part in self.parts)


print("selftest", Answer([1, 4, 5]).total(), "☃")
