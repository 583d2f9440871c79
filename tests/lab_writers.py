"""Who has a base open for writing, while a migration is under way between two real hosts."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field

from fsm.lab import LabHost


@define
class Writers:
    """Looks all the time which hosts' QEMU has a guest's base open for writing; ``bases`` are its paths."""

    guest: str
    bases: Mapping[LabHost, str]
    seen: set[frozenset[str]] = field(factory=set)
    _over: threading.Event = field(factory=threading.Event)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look until the end of the block."""
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.seen.add(frozenset(host.name for host in self.bases if self._writes(host)))

    def _writes(self, host: LabHost) -> bool:
        return any(_has_open_for_writing(pid, self.bases[host]) for pid in host.qemu_pids(self.guest))


def _has_open_for_writing(pid: int, path: str) -> bool:
    try:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            if str(fd.readlink()) == path:
                flags = int(
                    Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().split("flags:")[1].split()[0], 8
                )
                if flags & os.O_ACCMODE != os.O_RDONLY:
                    return True
    except FileNotFoundError:  # closed, or ended, meanwhile
        pass
    return False
