"""A few lines whose output is known: a class, a comprehension, text beyond ASCII."""

from dataclasses import dataclass


@dataclass
class Answer:
    parts: list[int]

    def total(self) -> int:
        return sum(part * part for part in self.parts)


print("selftest", Answer([1, 4, 5]).total(), "☃")
