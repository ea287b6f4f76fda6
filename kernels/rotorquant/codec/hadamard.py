"""Hadamard matrices of many orders, in plain integers.

Sylvester's H_2n = [[H_n, H_n], [H_n, -H_n]] doubles an order. Paley's first construction gives
order q + 1 for a prime q = 3 mod 4: H = I + S with S = [[0, 1], [-1, Q]] and Q_ij = chi(i - j),
the quadratic character mod q. So 384 = 12 x 32 with q = 11. No torch here.
"""

from __future__ import annotations

__all__ = ["hadamard_order", "signed_hadamard"]

Matrix = list[list[int]]
_RIGHT = 32  # order of the second factor at most; two factors near sqrt(n) cost least


def hadamard_order(size: int) -> int | None:
    """The order of the first factor that is not a power of two (1 if none is needed), or None."""
    odd = size
    while odd % 2 == 0 and odd:
        odd //= 2
    if odd == 1:
        return 1
    order = 4 * odd
    while size > 0 and size % order == 0:
        if _is_prime(order - 1):
            return order
        order *= 2
    return None


def signed_hadamard(size: int) -> tuple[Matrix, Matrix] | None:
    """Matrices A and B of plus and minus one whose Kronecker product has order `size`, or None."""
    order = hadamard_order(size)
    if order is None:
        return None
    twos = size // order
    right = min(twos, _RIGHT)
    base = [[1]] if order == 1 else _paley(order - 1)
    return _double(base, twos // right), _double([[1]], right)


def _double(matrix: Matrix, times: int) -> Matrix:
    """Sylvester's step until the order is `times` as large, a power of two."""
    while times > 1:
        matrix = [row + row for row in matrix] + [row + [-x for x in row] for row in matrix]
        times //= 2
    return matrix


def _paley(q: int) -> Matrix:
    squares = {x * x % q for x in range(1, q)}
    character = [0] + [1 if x in squares else -1 for x in range(1, q)]
    skew = [[0, *[1] * q]] + [[-1, *(character[(i - j) % q] for j in range(q))] for i in range(q)]
    return [[x + (i == j) for j, x in enumerate(row)] for i, row in enumerate(skew)]


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % d for d in range(2, int(number**0.5) + 1))
