"""What ``fsm migrate`` makes of each option that ``virsh migrate`` has: the table of the documentation.

Who comes from virsh is answered by name: what holds anyway is taken and changes nothing, and what is not
possible is refused with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import click
from attrs import frozen

from fsm.errors import BadInput

Command = Callable[..., Any]


class Answer(StrEnum):
    """What becomes of an option."""

    SAME = "the same"
    OTHERWISE = "otherwise"
    ANYWAY = "always so"
    REFUSED = "refused"


@frozen
class Word:
    """One option of virsh. ``takes`` a value; ``told`` is the other name, or the reason."""

    option: str
    answer: Answer
    told: str = ""
    takes: bool = False


_HALVES = (
    "a link that breaks would leave the guest's memory in two halves; see --auto-converge and --max-pause"
)
_FILES = "the definitions are made from the source's, with the disks' new images"

WORDS = (
    Word("live", Answer.ANYWAY, "of a domain that runs; one that is shut off is copied"),
    Word("offline", Answer.ANYWAY, "of a domain that is shut off, with its images and snapshots"),
    Word("p2p", Answer.ANYWAY, "so that the migration goes on when its client dies"),
    Word("direct", Answer.REFUSED, "QEMU's hypervisors know no direct migration"),
    Word("tunnelled", Answer.REFUSED, "a tunnel can't carry single disks; see --tls"),
    Word("persistent", Answer.ANYWAY),
    Word(
        "undefinesource",
        Answer.ANYWAY,
        "when all is committed; --delete-source removes the images, too",
    ),
    Word("suspend", Answer.REFUSED, "suspend the domain first: it arrives as it left"),
    Word(
        "copy-storage-all",
        Answer.REFUSED,
        "it flattens the images: their snapshots would be lost; see --flatten",
    ),
    Word("copy-storage-inc", Answer.ANYWAY, "of the overlays"),
    Word(
        "copy-storage-synchronous-writes",
        Answer.REFUSED,
        "writes that are faster than their copy are throttled instead",
    ),
    Word("change-protection", Answer.ANYWAY, "for the whole migration: see fsm guard"),
    Word("unsafe", Answer.OTHERWISE, "--accept unsafe"),
    Word("verbose", Answer.ANYWAY),
    Word("compressed", Answer.OTHERWISE, "--compress"),
    Word("auto-converge", Answer.SAME),
    Word("rdma-pin-all", Answer.REFUSED, "libvirt copies no disks over RDMA"),
    Word("abort-on-error", Answer.SAME),
    Word("postcopy", Answer.REFUSED, _HALVES),
    Word("postcopy-after-precopy", Answer.REFUSED, _HALVES),
    Word("postcopy-resume", Answer.REFUSED, _HALVES),
    Word("postcopy-bandwidth", Answer.REFUSED, _HALVES, takes=True),
    Word("zerocopy", Answer.REFUSED, "it has not been tried with overlays"),
    Word("migrateuri", Answer.OTHERWISE, "--migrate-uri", takes=True),
    Word("graphicsuri", Answer.OTHERWISE, "--graphics-uri", takes=True),
    Word("listen-address", Answer.SAME, takes=True),
    Word("dname", Answer.SAME, "in the snapshots' descriptions too", takes=True),
    Word("timeout", Answer.SAME, "of libvirt's migration, behind the copy of the bases", takes=True),
    Word("timeout-suspend", Answer.ANYWAY, "what --timeout does"),
    Word("timeout-postcopy", Answer.REFUSED, _HALVES),
    Word("xml", Answer.REFUSED, _FILES, takes=True),
    Word("persistent-xml", Answer.REFUSED, _FILES, takes=True),
    Word("migrate-disks", Answer.OTHERWISE, "--exclude-disk names those that stay", takes=True),
    Word(
        "migrate-disks-detect-zeroes", Answer.REFUSED, "holes of an image stay holes without it", takes=True
    ),
    Word("migrate-disks-target-zero", Answer.REFUSED, "it has not been tried", takes=True),
    Word("disks-port", Answer.SAME, takes=True),
    Word("disks-uri", Answer.SAME, takes=True),
    Word("comp-methods", Answer.SAME, takes=True),
    Word("comp-mt-level", Answer.SAME, takes=True),
    Word("comp-mt-threads", Answer.SAME, takes=True),
    Word("comp-mt-dthreads", Answer.SAME, takes=True),
    Word("comp-xbzrle-cache", Answer.SAME, takes=True),
    Word("comp-zlib-level", Answer.REFUSED, "it has not been tried", takes=True),
    Word("comp-zstd-level", Answer.REFUSED, "it has not been tried", takes=True),
    Word("auto-converge-initial", Answer.SAME, takes=True),
    Word("auto-converge-increment", Answer.SAME, takes=True),
    Word("tls", Answer.SAME),
    Word("tls-destination", Answer.SAME, takes=True),
    Word("parallel", Answer.SAME),
    Word("parallel-connections", Answer.SAME, takes=True),
    Word("bandwidth", Answer.SAME, "for the copies too, and for the sum of all streams", takes=True),
    Word("available-switchover-bandwidth", Answer.REFUSED, "it has not been tried", takes=True),
)


def answered(command: Command) -> Command:
    """Give a command the options that it does not have itself: without effect, or refused by name."""
    for word in WORDS:
        if word.answer is not Answer.SAME:
            command = click.option(
                f"--{word.option}",
                is_flag=not word.takes,
                hidden=True,
                expose_value=False,
                is_eager=True,
                callback=_refuse(word) if word.answer is not Answer.ANYWAY else None,
            )(command)
    return command


def _refuse(word: Word) -> Callable[[click.Context, click.Parameter, object], None]:
    def refuse(_context: click.Context, _parameter: click.Parameter, value: object) -> None:
        if not value:
            return
        if word.answer is Answer.OTHERWISE:
            raise BadInput(f"there is no --{word.option} here", remedy=word.told)
        raise BadInput(f"--{word.option} is not possible", remedy=word.told)

    return refuse


def markdown() -> str:
    """The table as a page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# For those who come from `virsh migrate`"
    yield ""
    yield "Every option of it (libvirt 9.0 to 12.8), and what `fsm migrate` makes of it. What is always so is"
    yield "taken without effect; what is refused says so. Generated: `.venv/bin/python docs/generate.py`."
    yield ""
    yield "| `virsh migrate` | `fsm migrate` | |"
    yield "|---|---|---|"
    for word in WORDS:
        yield f"| `--{word.option}` | {word.answer} | {word.told} |"
