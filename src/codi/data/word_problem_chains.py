"""The arithmetic of word problems: chains, and drawing them within a range of values."""

from __future__ import annotations

import random
from dataclasses import dataclass

KINDS = ("+-", "*/", "c")
"""Operations that could be merged with a neighbour of their kind; `c` is the complement, operand - value."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The arithmetic of one problem: the number it starts from, then one operation and operand per step."""

    start: int
    operations: str
    operands: tuple[int, ...]

    def values(self) -> tuple[int, ...]:
        """The number it starts from and the result of every step: `steps + 1` values."""
        values = [self.start]
        for operation, operand in zip(self.operations, self.operands, strict=True):
            values.append(_apply(values[-1], operation, operand))
        return tuple(values)

    def steps(self) -> tuple[str, ...]:
        """The steps as GSM8k-Aug writes them: `<<7+5=12>>`."""
        values = self.values()
        written = []
        for before, operation, operand, after in zip(
            values, self.operations, self.operands, values[1:], strict=False
        ):
            left = f"{operand}-{before}" if operation == "c" else f"{before}{operation}{operand}"
            written.append(f"<<{left}={after}>>")
        return tuple(written)


def draw_operations(rng: random.Random, steps: int, complement_weight: float) -> str:
    """Sums, products and complements, never two of a kind in a row.

    Neighbours of one kind could be merged (+3 and -1 are +2): a chain would be shallower than it is long, and
    a step could undo the one before it.
    """
    operations, last = "", ""
    for _ in range(steps):
        weights = {kind: complement_weight if kind == "c" else 1.0 for kind in KINDS if kind != last}
        last = rng.choices(list(weights), list(weights.values()))[0]
        operations += rng.choice(last)
    return operations


_Moves = dict[int, tuple[tuple[int, int], ...]]
"""For a value, the operands of an operation, each with its result."""


class ChainSampler:
    """Draws chains whose values all lie in 1..largest.

    The operations are given, and numbers are drawn only among those from which the remaining operations can
    still be done. Drawing numbers first would make multiplication and division rare, because few values
    allow them.
    """

    def __init__(
        self, largest: int, largest_addend: int, factors: tuple[int, ...], complements: tuple[int, ...]
    ) -> None:
        self._largest = largest
        self._largest_addend = largest_addend
        self._factors = factors
        self._complements = complements
        self._tables: dict[str, _Moves] = {}
        self._paths: dict[str, tuple[tuple[int, ...], tuple[_Moves, ...]]] = {}

    def draw(self, rng: random.Random, operations: str) -> tuple[list[int], list[int]] | None:
        """A chain that does `operations` in turn: its values and its operands; None where there is none.

        Called thousands of times for a problem of `larger_numbers`, so it looks up and makes no `Chain`.
        """
        starts, tables = self._path(operations)
        if not starts:
            return None
        value = rng.choice(starts)
        values, operands = [value], []
        for moves in tables:
            operand, value = rng.choice(moves[value])
            operands.append(operand)
            values.append(value)
        return values, operands

    def _path(self, operations: str) -> tuple[tuple[int, ...], tuple[_Moves, ...]]:
        """The numbers to start from with which all of `operations` can be done, and the moves of each."""
        if operations not in self._paths:
            tables = tuple(self._moves(operations[index:]) for index in range(len(operations)))
            self._paths[operations] = tuple(value for value in tables[0] if value >= 2), tables
        return self._paths[operations]

    def _moves(self, operations: str) -> _Moves:
        """The ways to do the first operation after which the others can still be done."""
        if operations not in self._tables:
            rest = operations[1:]
            after = self._moves(rest) if rest else None
            table: _Moves = {}
            for value in range(1, self._largest + 1):
                results = [
                    (operand, _apply(value, operations[0], operand))
                    for operand in self._possible(value, operations[0])
                ]
                moves = tuple(move for move in results if after is None or move[1] in after)
                if moves:
                    table[value] = moves
            self._tables[operations] = table
        return self._tables[operations]

    def _possible(self, value: int, operation: str) -> list[int]:
        """The operands that keep the result whole, in range, and worth computing (never 0, never n / n)."""
        if operation == "+":
            return list(range(1, min(self._largest_addend, self._largest - value) + 1))
        if operation == "-":
            return list(range(1, min(self._largest_addend, value - 1) + 1))
        if operation == "*":
            return [factor for factor in self._factors if value * factor <= self._largest]
        if operation == "c":
            return [whole for whole in self._complements if 0 < whole - value <= self._largest]
        return [factor for factor in self._factors if value % factor == 0 and value > factor]


def _apply(value: int, operation: str, operand: int) -> int:
    """The result of one step. Division is exact for every chain that is drawn."""
    if operation == "+":
        return value + operand
    if operation == "-":
        return value - operand
    if operation == "c":
        return operand - value
    return value * operand if operation == "*" else value // operand
