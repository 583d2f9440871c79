"""The marker's XML, and how snapshot metadata is packed into it."""

from __future__ import annotations

import lzma
import random
from base64 import b64encode
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from fsm.errors import BadInput
from fsm.hypervisor import markers
from fsm.hypervisor.values import Base, Marker, Overlay, SnapshotMetadata

DOMAIN = "<domain><name>web</name><uuid>u</uuid><memory>1</memory></domain>"
_texts = st.text(st.characters(codec="utf-8"), max_size=20)
_snapshots = st.lists(
    st.builds(SnapshotMetadata, name=_texts, xml=_texts, parent=st.none() | _texts, current=st.booleans()),
    max_size=5,
)


@given(_snapshots, st.sets(_texts))
def test_what_is_packed_comes_out(snapshots: list[SnapshotMetadata], withheld: set[str]) -> None:
    unpacked = markers.unpack(markers.pack(snapshots, withheld))
    assert unpacked.snapshots == tuple(snapshots)
    assert unpacked.withheld == withheld & {snapshot.name for snapshot in snapshots}


def _packed(data: bytes) -> str:
    return b64encode(lzma.compress(data)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no base64!",
        "AAAA",
        _packed(b"no JSON"),
        _packed(b"{}x"),
        _packed(b'[{"name": "s1"}]'),
        _packed(b"[1]"),
    ],
)
def test_what_is_no_pack_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        markers.unpack(text)


def test_what_unpacks_to_more_than_a_host_can_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markers, "_MOST_UNPACKED_BYTES", 1000)
    with pytest.raises(BadInput):
        markers.unpack(markers.pack([SnapshotMetadata("s1", "x" * 2000)]))


def test_many_snapshots_of_a_large_domain_are_small() -> None:
    """Each repeats the domain's description, which is longer than a window of zlib."""
    chance = random.Random(1)  # noqa: S311  # the same text each time; nothing is secret
    domain = "".join(chance.choices("abcdef0123456789", k=40_000))
    snapshots = [SnapshotMetadata(f"s{number}", f"<a>{number}</a>{domain}") for number in range(200)]
    assert len(markers.pack(snapshots)) < 64 << 10


def test_a_domain_without_a_uuid_is_marked_all_the_same() -> None:
    marked = markers.marked("<domain><name>web</name></domain>", Marker("1", owner="2"))
    assert markers.read(marked) == Marker("1", owner="2")
    assert markers.unmarked(marked) == "<domain><name>web</name></domain>"


def test_files_below_the_bases_come_back_as_they_were() -> None:
    base = Base("/a&b/golden", "raw", 1, 2, 3, growable=False, modified="5.1", below=True)
    marker = Marker("1", owner="2", bases=(base,), below=((base.path, "raw"), ("/m", "qcow2")))
    assert markers.read(markers.marked("<domain><name>web</name></domain>", marker)) == marker


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"destination_name": "mail"},
        {"overlays": (Overlay("vda", "/a.fsm-1", "/a", "raw", destination_base="/b"),)},
    ],
)
def test_who_does_not_know_of_other_names_at_the_destination_can_not_read_it(
    elsewhere: dict[str, Any],
) -> None:
    marker = Marker("1", owner="2", **elsewhere)
    text = markers.marked(DOMAIN, marker)
    assert 'format="2"' in text
    assert markers.read(text) == marker
    assert 'format="1"' in markers.marked(DOMAIN, Marker("1", owner="2"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("format=", "former="), "format"),
        (('owner="2"', ""), "owner"),
        (("journal", "diary"), "journal"),
        (('<fsm:source uri="" host=""/>', ""), "source"),
    ],
)
def test_a_marker_that_lacks_something_says_so(change: tuple[str, str], problem: str) -> None:
    text = markers.marked(DOMAIN, Marker("1", owner="2")).replace(*change)
    marker = markers.read(text)
    assert marker is not None
    assert problem in marker.problem
    assert marker.overlays == ()
    # Whatever it says, it can be removed.
    assert markers.read(markers.unmarked(text)) is None


def test_who_knows_no_devices_does_not_take_a_marker_that_tells_of_one() -> None:
    """He would remove the destination's device, or its name, as a copy of his own."""
    overlay = Overlay("vda", "/srv/o", "/dev/vg/web", "qcow2", on_device=True, arrives_on_device=True)
    base = Base("/dev/vg/web", "qcow2", 1 << 20, 1 << 20, 1 << 20, on_device=True)
    marker = Marker("0123456789ab", "owner", overlays=(overlay,), bases=(base,))
    text = markers.marked(DOMAIN, marker)
    assert markers.read(text) == marker
    assert 'format="3"' in text
    plain = evolve(marker, overlays=(Overlay("vda", "/srv/o", "/srv/web", "qcow2"),), bases=())
    assert 'format="1"' in markers.marked(DOMAIN, plain)
