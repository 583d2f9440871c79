"""Digests of what passes from a host, in which holes count as the zeros they stand for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Protocol

import xxhash

_ZEROS = memoryview(bytes(1 << 20))


class Hash(Protocol):
    """What ``hashlib`` makes."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take more bytes."""

    def digest(self) -> bytes:
        """The digest of all of them."""


Algorithm = Callable[[], Hash]

STRONG: Algorithm = hashlib.sha256
"""For a comparison that somebody asked for."""

QUICK: Algorithm = xxhash.xxh3_128
"""For what is compared with itself after an accident. Costs 0.02 s a GiB; SHA-256 0.5 s, CRC-32 0.16 s."""


class Digester:
    """A sink that digests; a range that is one hole costs nothing."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self._hash = algorithm()
        self._zero_bytes = 0  # not hashed yet
        self._began = False

    def data(self, _offset: int, chunk: bytes) -> None:
        """See ``fsm.hypervisor.port.DataSink``."""
        self._hash_zeros()
        self._began = True
        self._hash.update(chunk)

    def hole(self, _offset: int, length: int) -> None:
        """See ``fsm.hypervisor.port.DataSink``."""
        self._zero_bytes += length

    def digest(self) -> bytes:
        """The digest of what has passed."""
        if not self._began:
            return digest_of_zeros(self._algorithm, self._zero_bytes)
        self._hash_zeros()
        return self._hash.digest()

    def _hash_zeros(self) -> None:
        if self._zero_bytes:
            self._began = True
            for zeros in zeros_of(self._zero_bytes):
                self._hash.update(zeros)
            self._zero_bytes = 0


def zeros_of(length: int) -> Iterable[memoryview]:
    """So many zeros, in pieces."""
    for done in range(0, length, len(_ZEROS)):
        yield _ZEROS[: length - done]


@lru_cache(maxsize=16)
def digest_of_zeros(algorithm: Algorithm, length: int) -> bytes:
    """The digest of so many zeros."""
    zeros = algorithm()
    for part in zeros_of(length):
        zeros.update(part)
    return zeros.digest()
