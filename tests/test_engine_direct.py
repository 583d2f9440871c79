"""The direct copy's own conditions, as far as they can be told without a host."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import AsyncMock, MagicMock

import pytest
from attrs import evolve

from fsm.engine.bad_input import check_request
from fsm.engine.direct import _expect_same_file, copy_directly, findings, shell
from fsm.engine.plan import Direct, Request, Side
from fsm.errors import ActionFailed, BadInput
from fsm.hypervisor.shell import Shell
from fsm.hypervisor.values import Base, FileFacts
from fsm.images.pieces import Piece
from fsm.journal.port import LeaseLost

HERE = Request("web", "qemu+ssh://root@beta/system", direct=Direct())


def test_the_uris_tell_how_to_reach_a_shell() -> None:
    check_request(HERE)
    assert shell(HERE, Direct(), Side.SOURCE).prefix == ()
    assert shell(HERE, Direct(), Side.DESTINATION).prefix[-1] == "root@beta"
    assert shell(HERE, Direct(source_shell="a 'b c'"), Side.SOURCE).prefix == ("a", "b c")


@pytest.mark.parametrize(
    ("direct", "message"),
    [
        (Direct(seeds=("vda",)), "no TARGET=PATH"),
        (Direct(seeds=("vda=relative",)), "no TARGET=PATH"),
        (Direct(seeds=("=/path",)), "no TARGET=PATH"),
        (Direct(tls_directory="pki"), "no absolute path"),
        (Direct(source_shell="'"), "is no command"),
    ],
)
def test_what_is_wrong_in_itself(direct: Direct, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_request(evolve(HERE, direct=direct))


def test_a_uri_that_tells_no_shell() -> None:
    request = evolve(HERE, destination_uri="qemu+tls://beta/system")
    with pytest.raises(BadInput, match="does not tell how to run a command there") as caught:
        check_request(request)
    assert "--destination-shell" in caught.value.remedy
    check_request(evolve(request, direct=Direct(destination_shell="ssh beta")))


def test_each_seed_has_its_target() -> None:
    direct = Direct(seeds=("vda=/a=b", "vdb=/c"))
    assert [direct.seed_of(target) for target in ("vda", "vdb", "vdc")] == ["/a=b", "/c", ""]


async def test_missing_tools_and_seeds_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    direct = Direct(
        source_shell=f"env PATH={empty}:/bin:/usr/bin",
        destination_shell=f"/usr/bin/env PATH={empty} /bin/sh -c 'exec /bin/sh -s'",
        seeds=(f"vda={tmp_path}/no 'seed'",),
    )
    found = await findings(HERE, direct)
    there = [one.message for one in found if one.host == HERE.shown_uri(Side.DESTINATION)]
    assert there[:3] == [f"{tool} is not installed" for tool in ("qemu-img", "truncate", "flock")]
    assert there[-1] == f"there is no file {tmp_path}/no 'seed'"
    assert {one.check for one in found} == {"transport"}


async def test_a_shell_that_leads_nowhere_is_a_finding() -> None:
    found = await findings(HERE, Direct(source_shell="false", destination_shell="no-such-command"))
    assert [one.message.partition(":")[0] for one in found] == ["no command can be run there"] * 2


@pytest.mark.parametrize("named", ["file", "a link to it"])
@pytest.mark.parametrize("modified", ["1700000000", "1700000000.000000001", "1700000000.500000000"])
async def test_a_shell_sees_the_file_that_libvirt_sees(modified: str, named: str, tmp_path: Path) -> None:
    """libvirt follows links, and tells no fraction of a whole second."""
    file = tmp_path / "file"
    file.write_bytes(b"base")
    whole, _, fraction = modified.partition(".")
    ns = int(whole) * 10**9 + int(fraction or 0)
    os.utime(file, ns=(ns, ns))
    (tmp_path / "a link to it").symlink_to("file")
    base = Base(str(tmp_path / named), "raw", 4, 4, 4)
    host = MagicMock(uri="qemu:///system")
    host.storage.stat = AsyncMock(return_value=FileFacts(base.path, 4, 4, 4, "raw", modified=modified))
    context = MagicMock(host=AsyncMock(return_value=host))
    await _expect_same_file(context, Side.SOURCE, Shell("qemu:///system"), base)
    os.utime(file, ns=(ns + 2, ns + 2))
    with pytest.raises(ActionFailed, match="than libvirt"):
        await _expect_same_file(context, Side.SOURCE, Shell("qemu:///system"), base)


async def test_an_engine_that_loses_its_lease_while_it_compares_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever took over may have a guest on that file by then: comparing takes as long as reading it."""
    tools = {"qemu-nbd": "exit 0", "qemu-img": "echo overwritten >/proc/self/fd/4"}
    for name, line in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    copy = tmp_path / "copy"
    copy.write_text("a guest's")
    here = f"env PATH={tmp_path}:/usr/bin:/bin"
    direct = Direct(source_shell=here, destination_shell=here, address="localhost")
    base = Base(str(copy), "raw", 9, 9, 9)
    compared = AsyncMock(return_value=((Piece(0, 9, 9),), False))
    monkeypatch.setattr("fsm.engine.direct._pieces_to_send", compared)
    monkeypatch.setattr("fsm.engine.direct._expect_same_file", AsyncMock())

    async def note(_name: str, _data: object) -> None:
        if compared.called:
            raise LeaseLost("another engine has it")

    context = MagicMock(request=evolve(HERE, direct=direct), note=note)
    context.planned.copy_of.return_value = base
    with pytest.raises(LeaseLost):
        await copy_directly(context, direct, base, MagicMock())
    assert copy.read_text() == "a guest's"
