"""The ways to bring a running guest to another host, and one measured run of each."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from attrs import frozen

from bench.guests import Scene, allocated_bytes
from bench.impact import Interval, Seen, in_states, most_stalled, own_s
from bench.meter import Meter
from bench.phases import phases
from bench.results import Kind, Phase, Run, Where
from fsm.journal.sql import open_journal
from fsm.lab import Gap, LabError, SerialWatch, evidence
from fsm.lab.process import run

TIMEOUT_S = 900.0
UNDISTURBED_S = 2.0
"""How long the guest is watched before, to tell its usual silences and writes from the migration's."""

WHOLE = "all of it"


@frozen
class Migration:
    """One way. ``prepare`` comes before the clock starts; ``act`` is measured. It may tell when calls to
    hosts were under way.

    ``keeps_metadata``: libvirt's snapshot metadata goes along. ``keeps_snapshots``: so does their content.
    """

    name: str
    moves: str
    act: Callable[[Scene], Sequence[Interval] | None]
    prepare: Callable[[Scene], None] = lambda _: None
    keeps_metadata: bool = False
    keeps_snapshots: bool = True
    copies_file: bool = False

    def missing(self) -> str:
        """Why it can't take part; empty, since the lab's own packages suffice."""
        return ""


def _fsm(merge: str, scene: Scene, *options: str) -> None:
    command = [sys.executable, "-m", "fsm", "--journal", str(_journal(scene)), "migrate", scene.spec.name]
    uris = ["--from", scene.source.uri, "--to", scene.destination.uri]
    run([*command, *uris, "--merge", merge, *options], timeout=TIMEOUT_S)


def _fsm_by_nbd(merge: str, scene: Scene) -> None:
    shells = [
        f"--{side}-shell={shlex.join(host.enter)}"
        for side, host in (("source", scene.source), ("destination", scene.destination))
    ]
    _fsm(merge, scene, "--transport=nbd", f"--nbd-address={scene.source.address}", *shells)


def _engine(merge: str, scene: Scene) -> Sequence[Interval]:
    words = [str(_journal(scene)), scene.spec.name, scene.source.uri, scene.destination.uri, merge]
    told = run([sys.executable, "-m", "bench.own_time", *words], timeout=TIMEOUT_S)
    return [(begin, end) for begin, end in json.loads(told)]


def _journal(scene: Scene) -> Path:
    return scene.lab.directory / "journal.db"


def _virsh(scene: Scene, *options: str) -> None:
    words = ["--live", "--p2p", "--persistent", "--undefinesource", *options]
    scene.source.virsh("migrate", *words, scene.spec.name, scene.destination.uri, timeout=TIMEOUT_S)


def _copy_storage(scene: Scene) -> None:
    _virsh(scene, "--copy-storage-all")


def _make_empty_image(scene: Scene) -> None:
    # libvirt makes it itself only where a storage pool covers the directory.
    scene.forget_snapshots()
    size = f"{scene.spec.disks[0].size_mib}M"
    run(["qemu-img", "create", "-q", "-f", "qcow2", str(scene.destination.path(scene.image)), size])


def _pause_and_copy(scene: Scene) -> None:
    scene.source.virsh("suspend", scene.spec.name)
    files = [str(host.path(scene.image)) for host in scene.lab.hosts]
    run(["cp", "--sparse=always", "--reflink=never", "--", *files], timeout=TIMEOUT_S)
    _virsh(scene, "--unsafe")
    scene.destination.virsh("resume", scene.spec.name)


FSM = "fsm migrate"
MIRROR = "fsm migrate, mirror"
FSM_NBD, MIRROR_NBD = f"{FSM}, nbd", f"{MIRROR}, nbd"
ENGINES = ENGINE, ENGINE_MIRROR = "fsm.Engine", "fsm.Engine, mirror"
VIRSH = "virsh migrate"
PAUSE = "pause and copy"
MIGRATIONS = (
    Migration(
        FSM,
        "live; the whole image with its snapshots, and what was written meanwhile; merge commit",
        partial(_fsm, "commit"),
        keeps_metadata=True,
    ),
    Migration(
        MIRROR,
        "the same; merge mirror",
        partial(_fsm, "mirror"),
        keeps_metadata=True,
    ),
    Migration(
        FSM_NBD,
        "merge commit; the base straight from host to host, by commands run on both",
        partial(_fsm_by_nbd, "commit"),
        keeps_metadata=True,
    ),
    Migration(
        MIRROR_NBD,
        "merge mirror; the base in the same way",
        partial(_fsm_by_nbd, "mirror"),
        keeps_metadata=True,
    ),
    Migration(
        ENGINE,
        "the engine embedded, with every call to a host timed, a wait for its events being one; own s is the"
        " rest, from the migration's creation to its last record; merge commit",
        partial(_engine, "commit"),
        keeps_metadata=True,
    ),
    Migration(
        ENGINE_MIRROR,
        "the same; merge mirror",
        partial(_engine, "mirror"),
        keeps_metadata=True,
    ),
    Migration(
        VIRSH,
        "live, --copy-storage-all; the same image's active content alone, so the snapshots are lost; their"
        " metadata is dropped before the clock starts, since libvirt refuses otherwise",
        _copy_storage,
        prepare=_make_empty_image,
        keeps_snapshots=False,
    ),
    Migration(
        PAUSE,
        "paused; cp of the whole image from one host's directory to the other's, standing in for rsync (no"
        " network, no checksums: faster than the real thing), then the memory, then resume; metadata dropped"
        " before the clock starts",
        _pause_and_copy,
        prepare=Scene.forget_snapshots,
        copies_file=True,
    ),
)


def measure(migration: Migration, scene: Scene, where: Where) -> Run:
    """One migration of a guest made for it. Raises ``LabError`` when it did not do what it promises."""
    try:
        scene.make()
        return _measure(migration, scene, where)
    finally:
        scene.discard()


def _measure(migration: Migration, scene: Scene, where: Where) -> Run:
    before = evidence.collect(scene.source, scene.spec)
    source_bytes = allocated_bytes(scene.source, scene.image)
    migration.prepare(scene)
    disks = scene.spec.written_targets
    quiet, quiet_per_s = _undisturbed(scene)
    load_average = os.getloadavg()[0]
    with SerialWatch(*scene.lab.serial_logs(scene.spec.name)) as watch:
        began, began_s = datetime.now(UTC), time.monotonic()
        with Meter(scene.lab) as meter:
            busy_s = migration.act(scene)
        scene.guest(scene.destination).wait_for_writes()
    gap = watch.longest_gap(*disks)
    ended = began + timedelta(seconds=meter.seconds)
    stretches = _journalled(scene, began, ended) if migration.keeps_metadata else ()
    seen = Seen(
        began_s=began_s,
        arrivals=watch.arrivals,
        disks=disks,
        undisturbed_per_s=quiet_per_s,
        busy_s=busy_s,
    )
    states = in_states(stretches or (Phase(WHOLE, "", meter.seconds),), seen)
    return Run(
        contender=migration.name,
        kind=Kind.MIGRATION,
        where=where,
        seconds=meter.seconds,
        command_cpu_s=meter.command_cpu_s,
        hosts_cpu_s=meter.hosts_cpu_s,
        sent_bytes=meter.sent_bytes,
        copied_bytes=source_bytes if migration.copies_file else 0,
        source_image_bytes=source_bytes,
        destination_image_bytes=allocated_bytes(scene.destination, scene.image),
        load_average=load_average,
        silence_ms=gap.ms,
        silence_resolution_ms=gap.resolution_ms,
        silence_state=most_stalled(states),
        undisturbed_silence_ms=quiet.ms,
        undisturbed_writes_per_s=quiet_per_s,
        snapshots_before=len(scene.spec.snapshots),
        snapshots_kept=_proven(migration, scene, before, watch),
        acknowledged_writes=len(watch.acks),
        phases=stretches,
        states=states,
        own_s=own_s(states),
    )


def _undisturbed(scene: Scene) -> tuple[Gap, float]:
    """The guest's longest silence, and its writes a second, with nothing going on."""
    with SerialWatch(*scene.lab.serial_logs(scene.spec.name)) as watch:
        began_s = time.monotonic()
        time.sleep(UNDISTURBED_S)
        seconds = time.monotonic() - began_s
    return watch.longest_gap(*scene.spec.written_targets), len(watch.arrivals) / seconds


def _proven(migration: Migration, scene: Scene, before: evidence.Evidence, watch: SerialWatch) -> int:
    """How many snapshots were kept; a result that is wrong raises, however fast it was."""
    after = evidence.collect(scene.destination, scene.spec)
    claims = evidence.whereabouts(scene.lab, scene.spec.name, scene.destination)
    claims += evidence.writes(scene.destination, scene.spec, watch.acks)
    contents = evidence.compare(before, after)
    if migration.keeps_snapshots:
        claims += contents if migration.keeps_metadata else contents[:-1]  # the last is about the metadata
    claims.append(evidence.leftovers(scene.lab))
    if wrong := [f"{claim.what}: {claim.seen}" for claim in claims if not claim.holds]:
        raise LabError(f"{migration.name} did not do its work: {'; '.join(wrong)}")
    target = scene.spec.disks[0].target
    found = after.digests[target]
    return sum(found.get(name) == digest for name, digest in before.digests[target].items())


def _journalled(scene: Scene, began: datetime, ended: datetime) -> tuple[Phase, ...]:
    journal = open_journal(_journal(scene))
    try:
        header = journal.headers()[-1]
        return phases(header.created, journal.records(header.migration), began, ended)
    finally:
        journal.close()
