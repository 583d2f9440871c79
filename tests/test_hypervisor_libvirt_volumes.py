"""Files whose storage pool somebody else releases in the midst, as a migration of another engine does."""

from __future__ import annotations

from typing import Any

import libvirt
import pytest

from fsm.errors import NotFound
from fsm.hypervisor.libvirt import pools, volumes
from fsm.hypervisor.libvirt.session import Call, perform

PATH = "/srv/images/web.qcow2"
CONTENT = b"what the file holds"


class Gone(libvirt.libvirtError):  # type: ignore[misc]
    """What libvirt says of a pool, or a volume, that is not there any more."""

    def __init__(self, code: int) -> None:
        super().__init__("not found")
        self.err = (code, 0, "not found", 2, None, None, None, -1, -1)


class Volume:
    """A volume of a pool that is released behind ``asked`` questions; None: never."""

    def __init__(self, asked: int | None) -> None:
        self._left = asked

    def _ask(self) -> None:
        if self._left is not None:
            if not self._left:
                raise Gone(libvirt.VIR_ERR_NO_STORAGE_POOL)
            self._left -= 1

    def infoFlags(self, _flags: int) -> list[int]:  # noqa: N802 - libvirt's name
        self._ask()
        return [0, 0, len(CONTENT)]

    def download(self, stream: Stream, offset: int, length: int, _flags: int) -> None:
        self._ask()
        stream.left = CONTENT[offset : offset + length]

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802
        self._ask()
        return f"<volume><physical>{len(CONTENT)}</physical></volume>"


class Stream:
    left = b""

    def recv(self, length: int) -> bytes:
        got, self.left = self.left[:length], self.left[length:]
        return got

    def finish(self) -> None:
        pass

    abort = finish


class Pool:
    """Hands out the volumes one after the other, then none."""

    def __init__(self, *handed_out: Volume) -> None:
        self._volumes = list(handed_out)

    def storageVolLookupByName(self, _name: str) -> Volume:  # noqa: N802
        if not self._volumes:
            raise Gone(libvirt.VIR_ERR_NO_STORAGE_VOL)
        return self._volumes.pop(0)


class Connection:
    def __init__(self, known: Volume | None) -> None:
        self._known = known

    def isAlive(self) -> bool:  # noqa: N802
        return True

    def newStream(self, _flags: int) -> Stream:  # noqa: N802
        return Stream()

    def storageVolLookupByPath(self, _path: str) -> Volume:  # noqa: N802
        if self._known is None:
            raise Gone(libvirt.VIR_ERR_NO_STORAGE_VOL)
        return self._known


def asked(work: Any, known: Volume | None, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(pools, "refreshed", lambda _call, _directory: pool)
    monkeypatch.setattr(pools, "_BUSY_WAIT_S", 0)
    return perform(Connection(known), "qemu+tcp://h/system", "ask", work, change=False)


def peek(call: Call) -> bytes:
    return volumes.peek(call, PATH, 0, 100)


@pytest.mark.parametrize("questions", [0, 1])
def test_what_a_file_holds_is_read_through_the_next_pool(
    questions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 'there is none' it would be taken for an overlay without snapshots, which may be removed."""
    whole = Pool(Volume(None))
    assert asked(peek, Volume(questions), whole, monkeypatch) == CONTENT
    twice = Pool(Volume(questions), Volume(None))
    assert asked(peek, Volume(questions), twice, monkeypatch) == CONTENT
    assert asked(peek, None, Pool(Volume(None)), monkeypatch) == CONTENT


def test_a_file_is_looked_at_through_the_next_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an error it would be taken for a directory that does not exist."""
    pool = Pool(Volume(0), Volume(None))
    found = asked(lambda call: volumes.stat(call, PATH), None, pool, monkeypatch)
    assert found.size_bytes == len(CONTENT)
    assert asked(lambda call: volumes.stat(call, PATH), None, Pool(), monkeypatch) is None


def test_a_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        asked(peek, None, Pool(), monkeypatch)
