"""What somebody else does to a domain on overlays, and how it shows."""

from __future__ import annotations

import pytest

from fsm.hypervisor.simulated.state import Denied
from fsm.images.tables import look_at_image
from fsm.lab.errors import LabError
from tests.contract.contract_rig import (
    KIB,
    MIB,
    Rig,
    RigDisk,
    committed,
    facts_of,
    put_overlay,
    ready,
    stat_of,
)

REFUSED = (Denied, LabError)


async def test_a_write_into_a_file_shows(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    before, above = await stat_of(host, overlay.base), await stat_of(host, overlay.path)
    rig.write(rig.source, uuid, "vda", 0, 64 * KIB, 7)
    assert await stat_of(host, overlay.base) == before, "the base stands still below its overlay"
    assert (await stat_of(host, overlay.path)).modified != above.modified
    await committed(host, uuid, overlay)
    assert (await stat_of(host, overlay.base)).modified != before.modified


async def test_a_snapshot_taken_into_an_overlay_is_seen_at_once(rig: Rig) -> None:
    """QEMU writes header and table out when it takes one, while it goes on using the file."""
    uuid = rig.domain("web", snapshots={"s1": None})
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    assert (await look_at_image(host.storage, overlay.path)).snapshots == ()
    rig.take_snapshot(rig.source, uuid, "theirs")
    (found,) = (await look_at_image(host.storage, overlay.path)).snapshots
    assert found.name == "theirs"
    (kept,) = (await look_at_image(host.storage, overlay.base)).snapshots
    assert kept.name == "s1"
    assert (await facts_of(host, uuid)).snapshots == ("s1", "theirs")


async def test_no_snapshot_is_taken_while_a_commit_is_not_over(rig: Rig) -> None:
    """From its start to its pivot: this is what keeps snapshots out between the look and the pivot."""
    uuid = rig.domain("web", disks=(RigDisk("vda"), RigDisk("vdb")))
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    await host.start_commit(uuid, overlay)
    await ready(host, uuid)
    with pytest.raises(REFUSED, match="active block job"):
        rig.take_snapshot(rig.source, uuid, "late")
    with pytest.raises(REFUSED, match="in use"):
        rig.resize(rig.source, uuid, "vda", 24)
    await host.pivot(uuid, "vda")
    rig.take_snapshot(rig.source, uuid, "later")
    assert "later" in rig.image_snapshots(rig.source, overlay.base)


async def test_a_disk_that_is_resized_on_its_overlay_lets_the_base_grow_with_the_commit(rig: Rig) -> None:
    small = RigDisk("vda", capacity_mib=8)
    uuid = rig.domain("web", disks=(small,), snapshots={"s1": None, "s2": "s1"})
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    rig.resize(rig.source, uuid, "vda", 12)
    assert (await look_at_image(host.storage, overlay.path)).header.size_bytes == 12 * MIB
    assert (await stat_of(host, overlay.base)).capacity_bytes == 8 * MIB
    await committed(host, uuid, overlay)
    image = await look_at_image(host.storage, overlay.base)
    assert image.header.size_bytes == 12 * MIB
    assert [snapshot.name for snapshot in image.snapshots] == ["s1", "s2"]
