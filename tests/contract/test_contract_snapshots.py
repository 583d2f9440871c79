"""Metadata of internal snapshots: read, dropped, defined again."""

from __future__ import annotations

import pytest
from attrs import evolve
from lxml import etree

from fsm.errors import HostError, NotFound
from fsm.hypervisor.values import SnapshotMetadata
from tests.contract.contract_rig import Rig, RigDisk, facts_of

TREE = {"s1": None, "s2": "s1", "s3": "s1", "s4": "s3"}
NOBODY = "8a3e1d64-02c4-4f37-9a2e-1b5d7c9e0f11"


def told(snapshots: tuple[SnapshotMetadata, ...]) -> dict[str, tuple[str | None, bool, bool, str | None]]:
    """Parent, whether current, whether external, and description of each."""
    return {
        one.name: (one.parent, one.current, one.external, etree.fromstring(one.xml).findtext("description"))
        for one in snapshots
    }


WANTED = {
    "s1": (None, False, False, "taken as <s1> & kept"),
    "s2": ("s1", False, False, "taken as <s2> & kept"),
    "s3": ("s1", False, False, "taken as <s3> & kept"),
    "s4": ("s3", True, False, "taken as <s4> & kept"),
}


async def test_a_tree_is_told_parents_first(rig: Rig) -> None:
    uuid = rig.domain("web", (RigDisk("vda"), RigDisk("vdb")), snapshots=TREE)
    host = await rig.host(rig.source)
    found = await host.snapshots(uuid)
    assert told(found) == WANTED
    names = [snapshot.name for snapshot in found]
    assert all(one.parent is None or names.index(one.parent) < names.index(one.name) for one in found)
    facts = await facts_of(host, uuid)
    assert (set(facts.snapshots), facts.current_snapshot) == (set(TREE), "s4")
    for target in ("vda", "vdb"):
        assert rig.image_snapshots(rig.source, f"{rig.images}/web-{target}.qcow2") == list(TREE)


async def test_metadata_comes_back_as_it_was(rig: Rig) -> None:
    uuid = rig.domain("web", snapshots=TREE)
    host = await rig.host(rig.source)
    saved = await host.snapshots(uuid)
    await host.forget_snapshots(uuid, list(TREE))
    assert await host.snapshots(uuid) == ()
    facts = await facts_of(host, uuid)
    assert (facts.snapshots, facts.current_snapshot) == ((), None)
    assert rig.image_snapshots(rig.source, f"{rig.images}/web-vda.qcow2") == list(TREE)
    await host.forget_snapshots(uuid, list(TREE))  # they are forgotten already
    await host.define_snapshots(uuid, saved)
    assert told(await host.snapshots(uuid)) == WANTED
    await host.define_snapshots(uuid, saved)  # they are defined already
    assert told(await host.snapshots(uuid)) == WANTED
    assert (await facts_of(host, uuid)).current_snapshot == "s4"


async def test_metadata_is_dropped_of_a_shut_off_domain_too(rig: Rig) -> None:
    uuid = rig.domain("web", snapshots=TREE, running=False)
    host = await rig.host(rig.source)
    saved = await host.snapshots(uuid)
    await host.forget_snapshots(uuid, list(TREE))
    assert await host.snapshots(uuid) == ()
    await host.define_snapshots(uuid, saved)
    assert told(await host.snapshots(uuid)) == WANTED


async def test_only_the_named_ones_are_forgotten(rig: Rig) -> None:
    uuid = rig.domain("web", snapshots=TREE, running=False)
    host = await rig.host(rig.source)
    await host.forget_snapshots(uuid, ["s2", "never there"])
    assert told(await host.snapshots(uuid)) == {name: value for name, value in WANTED.items() if name != "s2"}


async def test_a_forgotten_parent_hands_its_children_on(rig: Rig) -> None:
    uuid = rig.domain("web", snapshots=TREE, running=False)
    host = await rig.host(rig.source)
    await host.forget_snapshots(uuid, ["s3"])
    left = {one.name: (one.parent, one.current) for one in await host.snapshots(uuid)}
    assert left == {"s1": (None, False), "s2": ("s1", False), "s4": ("s1", True)}


async def test_a_forgotten_current_one_leaves_its_parent_current(rig: Rig) -> None:
    uuid = rig.domain("web", snapshots=TREE, running=False)
    host = await rig.host(rig.source)
    await host.forget_snapshots(uuid, ["s4"])
    assert (await facts_of(host, uuid)).current_snapshot == "s3"


async def test_which_one_is_current_can_be_defined(rig: Rig) -> None:
    uuid = rig.domain("web", snapshots=TREE, running=False)
    host = await rig.host(rig.source)
    saved = await host.snapshots(uuid)
    await host.forget_snapshots(uuid, list(TREE))
    await host.define_snapshots(uuid, [evolve(one, current=False) for one in saved])
    assert (await facts_of(host, uuid)).current_snapshot is None
    await host.define_snapshots(uuid, [evolve(one, current=one.name == "s2") for one in saved])
    assert (await facts_of(host, uuid)).current_snapshot == "s2"


async def test_a_child_without_its_parent_is_refused(rig: Rig) -> None:
    uuid = rig.domain("web", snapshots=TREE, running=False)
    host = await rig.host(rig.source)
    saved = {one.name: one for one in await host.snapshots(uuid)}
    await host.forget_snapshots(uuid, list(TREE))
    with pytest.raises(HostError):
        await host.define_snapshots(uuid, [saved["s2"]])


async def test_snapshots_of_another_domain_are_refused(rig: Rig) -> None:
    uuid = rig.domain("web", snapshots={"s1": None})
    other = rig.domain("mail")
    host = await rig.host(rig.source)
    with pytest.raises(HostError):
        await host.define_snapshots(other, await host.snapshots(uuid))
    assert await host.snapshots(other) == ()


async def test_an_unknown_domain_has_no_snapshots(rig: Rig) -> None:
    host = await rig.host(rig.source)
    with pytest.raises(NotFound):
        await host.forget_snapshots(NOBODY, ["s1"])
    with pytest.raises(NotFound):
        await host.define_snapshots(NOBODY, [])
