"""The marker in a domain's metadata: written, replaced, carried along, and gone without a trace."""

from __future__ import annotations

import random
import string

import pytest
from attrs import evolve
from lxml import etree

from fsm.errors import NotFound
from fsm.hypervisor import markers
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import Base, Marker, Overlay, SnapshotMetadata
from fsm.machine.observation import Merge
from tests.contract.contract_rig import MIB, Rig, committed, facts_of, prepare

NOBODY = "8a3e1d64-02c4-4f37-9a2e-1b5d7c9e0f11"
SNAPSHOTS = (
    SnapshotMetadata("s1", "<domainsnapshot><name>s1</name></domainsnapshot>"),
    SnapshotMetadata("s & 2", "<domainsnapshot>\u00e4\n</domainsnapshot>", "s1", current=True),
)
FULL = Marker(
    migration="0123456789ab",
    owner="fedcba",
    source_uri="qemu+ssh://root@alpha/system?socket=/run/a&b=<c>",
    destination_uri="qemu+tls://beta/system",
    source_host="8a3e1d64-02c4-4f37-9a2e-1b5d7c9e0f12",
    destination_host="8a3e1d64-02c4-4f37-9a2e-1b5d7c9e0f13",
    journal="ops:/var/lib/fsm/journal.db",
    merge=Merge.MIRROR,
    overlays=(
        Overlay("vda", '/images/it\'s "a".qcow2.fsm-0123456789ab', '/images/it\'s "a".qcow2', "qcow2"),
        Overlay("vdc", "/images/c.fsm-0123456789ab", "/images/c", "raw", destination_base="/pool/<c> & 'd'"),
        Overlay("vdb", "/images/  b\t.raw.fsm-0123456789ab", "/images/  b\t.raw", "raw"),
    ),
    bases=(Base("/images/  b\t.raw", "raw", 5, 4, 3),),
    snapshots=markers.pack(SNAPSHOTS, ["s1"]),
    started_paused=True,
    destination_name="b & 'c' <é>",
)
SHORT = Marker("0123456789ab", owner="fedcba")


async def described(host: Host, uuid: str) -> tuple[str, str]:
    """The definition, and the running domain without an empty element that libvirt may have left there."""
    root = etree.fromstring(await host.domain_xml(uuid), etree.XMLParser(remove_blank_text=True))
    metadata = root.find("metadata")
    if metadata is not None and len(metadata) == 0:
        root.remove(metadata)
    return await host.persistent_xml(uuid), etree.tostring(root, encoding="unicode")


@pytest.mark.parametrize("running", [True, False], ids=["running", "shut-off"])
async def test_a_marker_is_read_as_it_was_written_and_leaves_no_trace(
    rig: Rig,
    running: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    uuid = rig.domain("web", running=running)
    host = await rig.host(rig.source)
    before = await described(host, uuid)
    assert (await facts_of(host, uuid)).marker is None
    for marker in (SHORT, FULL, FULL, SHORT):
        await host.mark(uuid, marker)
        assert (await facts_of(host, uuid)).marker == marker
        assert markers.read(await host.domain_xml(uuid)) == marker
        assert markers.read(await host.persistent_xml(uuid)) == marker
    await host.unmark(uuid)
    assert (await facts_of(host, uuid)).marker is None
    assert await described(host, uuid) == before
    await host.unmark(uuid)
    assert await described(host, uuid) == before


async def test_what_others_keep_in_the_metadata_stays(rig: Rig) -> None:
    uuid = rig.domain("web", metadata="<o:other xmlns:o='urn:other'><o:a>1 &lt; 2</o:a></o:other>")
    host = await rig.host(rig.source)
    before = await described(host, uuid)
    await host.mark(uuid, SHORT)
    await host.mark(uuid, FULL)
    assert "urn:other" in await host.domain_xml(uuid)
    await host.unmark(uuid)
    assert await described(host, uuid) == before
    assert "urn:other" in before[0]


async def test_an_empty_element_that_was_there_stays(rig: Rig) -> None:
    uuid = rig.domain("web", metadata="")
    host = await rig.host(rig.source)
    before = await host.persistent_xml(uuid)
    assert "<metadata/>" in before
    await host.mark(uuid, SHORT)
    await host.unmark(uuid)
    assert await host.persistent_xml(uuid) == before


async def test_a_marker_of_another_version_is_seen_for_what_it_is(rig: Rig) -> None:
    later = f'<fsm:migration xmlns:fsm="{markers.NAMESPACE}" format="4" id="{FULL.migration}"/>'
    uuid = rig.domain("web", metadata=later)
    marker = (await facts_of(await rig.host(rig.source), uuid)).marker
    assert marker is not None
    assert (marker.migration, marker.owner) == (FULL.migration, "")
    assert "format" in marker.problem


async def test_what_is_asked_of_an_unknown_domain(rig: Rig) -> None:
    host = await rig.host(rig.source)
    await host.unmark(NOBODY)
    with pytest.raises(NotFound):
        await host.mark(NOBODY, SHORT)
    with pytest.raises(NotFound):
        await host.public_snapshots(NOBODY)


async def test_the_marker_goes_with_the_domain(rig: Rig) -> None:
    """Also a large one: 200 snapshots, each with a description of its own."""
    uuid = rig.domain("web")
    source = await rig.host(rig.source)
    before = await source.persistent_xml(uuid)
    chance = random.Random(1)  # noqa: S311  # the same text each time; nothing is secret
    snapshots = tuple(
        SnapshotMetadata(f"s{number}", "".join(chance.choices(string.printable[:90], k=4000)))
        for number in range(200)
    )
    large = evolve(FULL, snapshots=markers.pack(snapshots))
    assert len(large.snapshots) > MIB // 2
    await source.mark(uuid, large)
    prepared = await prepare(rig, uuid)
    await prepared.migrate()
    assert (await facts_of(prepared.destination, uuid)).marker == large
    assert markers.unpack(large.snapshots).snapshots == snapshots
    await committed(prepared.destination, uuid, prepared.overlays[0])
    await prepared.destination.unmark(uuid)
    assert (await facts_of(prepared.destination, uuid)).marker is None
    # libvirt notes after a pivot that a disk has nothing below it.
    after = await prepared.destination.persistent_xml(uuid)
    assert "".join(after.split()).replace("<backingStore/>", "") == "".join(before.split())


async def test_all_domains_are_listed(rig: Rig) -> None:
    host = await rig.host(rig.source)
    assert await host.domains() == ()
    uuids = {rig.domain("web"), rig.domain("mail", running=False)}
    assert set(await host.domains()) == uuids


async def test_public_snapshots_hold_no_secrets(rig: Rig) -> None:
    uuid = rig.domain("web", snapshots={"s1": None, "s2": "s1"})
    host = await rig.host(rig.source)
    saved = await host.snapshots(uuid)
    graphics = "<graphics type='vnc' autoport='yes' passwd='geheim'/></devices>"
    await host.forget_snapshots(uuid, ["s1", "s2"])
    await host.define_snapshots(
        uuid, [evolve(one, xml=one.xml.replace("</devices>", graphics)) for one in saved]
    )
    assert all("geheim" in one.xml for one in await host.snapshots(uuid))
    public = await host.public_snapshots(uuid)
    assert [(one.name, one.parent, one.current) for one in public] == [
        ("s1", None, False),
        ("s2", "s1", True),
    ]
    assert all("vnc" in one.xml and "geheim" not in one.xml for one in public)
