"""``fsm migrate``."""

from __future__ import annotations

from typing import Any

import click

from fsm.cli.display import Display
from fsm.cli.drive import drive
from fsm.cli.handed_through import handed_through, take
from fsm.cli.virsh_words import answered
from fsm.engine.engine import Engine
from fsm.engine.handle import Handle
from fsm.engine.plan import Direct, MergeChoice, Request, StorageChoice, Verify
from fsm.errors import BadInput


@click.command()
@click.argument("domain")
@click.option("--to", "destination_uri", required=True, metavar="URI", help="The destination host.")
@click.option("--from", "source_uri", default="qemu:///system", metavar="URI", help="The source host.")
@click.option(
    "--peer-uri", metavar="URI", help="The destination as the source host sees it, where that differs."
)
@click.option(
    "--migrate-uri", metavar="URI", help="Address for the memory stream, for example tcp://10.0.0.2."
)
@click.option(
    "--merge",
    type=click.Choice([choice.value for choice in MergeChoice]),
    default=MergeChoice.AUTO.value,
    show_default=True,
    help="Mirror the overlay into the copy during the migration, or commit it at the destination; "
    "auto: mirror wherever that can be.",
)
@click.option(
    "--storage",
    type=click.Choice([choice.value for choice in StorageChoice]),
    default=StorageChoice.AUTO.value,
    show_default=True,
    help="Copy the bases, or leave them where both hosts see them; auto: as each disk is found.",
)
@click.option(
    "--bandwidth",
    "bandwidth_mib_per_s",
    type=click.IntRange(0),
    default=0,
    metavar="MIB_PER_S",
    help="Limit the copy of the bases, and then all streams of the migration together; 0: unlimited.",
)
@click.option(
    "--max-pause",
    "max_pause_ms",
    type=click.IntRange(0),
    default=0,
    metavar="MS",
    help="How long it may stand still where it would never end otherwise; 0: no longer than ever.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(0),
    default=0,
    metavar="S",
    help="After so long have the guest stand still until libvirt's migration is over; 0: never.",
)
@click.option(
    "--verify",
    # As words: click takes an enum's members by their upper-case names.
    type=click.Choice([choice.value for choice in Verify]),
    default=Verify.TABLE.value,
    help="Compare snapshot tables, or all bytes.",
)
@click.option(
    "--connections", type=click.IntRange(1, 64), default=4, help="Connection pairs for the base copy."
)
@click.option(
    "--transport",
    type=click.Choice(["streams", "nbd"]),
    default="streams",
    show_default=True,
    help="Copy the bases through libvirt alone, or straight from host to host by commands run on both.",
)
@click.option(
    "--source-shell", default="", metavar="COMMAND", help="For nbd: leads to a shell at the source."
)
@click.option(
    "--destination-shell", default="", metavar="COMMAND", help="For nbd: leads to a shell at the destination."
)
@click.option(
    "--nbd-address",
    default="",
    metavar="HOST",
    help="For nbd: the source's address as the destination sees it.",
)
@click.option(
    "--nbd-tls", default="", metavar="DIRECTORY", help="For nbd: encrypt, with QEMU's X.509 files there."
)
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    metavar="TARGET=PATH",
    help="For nbd: an older copy at the destination; only what differs is sent.",
)
@click.option(
    "--disk-map",
    "disk_map",
    multiple=True,
    metavar="TARGET=PATH",
    help="Where this disk's copy goes; also TARGET=POOL/NAME, a volume of a storage pool there.",
)
@click.option(
    "--pool", default="", metavar="NAME", help="Copies go into this storage pool there, by their own names."
)
@click.option(
    "--dname", "destination_name", default="", metavar="NAME", help="What the domain is called there."
)
@click.option(
    "--exclude-disk", "exclude_disks", multiple=True, metavar="TARGET", help="Leave this disk alone."
)
@click.option(
    "--overlay-directory",
    default="",
    metavar="DIRECTORY",
    help="Where both hosts have the overlays meanwhile; default: each beside its base.",
)
@click.option(
    "--delete-source",
    is_flag=True,
    help="Once all is committed, remove the images at the source that were copied.",
)
@click.option(
    "--flatten",
    multiple=True,
    metavar="TARGET",
    help="Once all is committed, begin to pull what this disk stands on into its image.",
)
@click.option("--accept", multiple=True, metavar="CHECK", help="Go on despite this preflight finding.")
@click.option("--correlation", default="", metavar="ID", help="Your own id for this request, for the log.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; the last is the result.")
@handed_through
@answered
@click.pass_context
def migrate(context: click.Context, /, as_json: bool, **options: Any) -> None:
    """Migrate DOMAIN live to another host, with its internal snapshots."""
    libvirts, direct = take(options), _direct(options)
    options["verify"] = Verify(options["verify"])
    request = Request(**options, **libvirts, direct=direct)

    async def begin(engine: Engine, display: Display) -> list[Handle]:
        return [await engine.start(request, on_progress=display.progress, on_record=display.record)]

    drive(context, begin, as_json=as_json)


def _direct(options: dict[str, Any]) -> Direct | None:
    """Take the options of the direct copy out of ``options``; None where it is not asked for."""
    transport = options.pop("transport")
    names = {"source_shell": "source_shell", "destination_shell": "destination_shell", "seeds": "seeds"}
    names |= {"nbd_address": "address", "nbd_tls": "tls_directory"}
    given = {names[option]: value for option in names if (value := options.pop(option))}
    if transport == "nbd":
        return Direct(**given)
    if given:
        raise BadInput(
            "shells, --nbd-address, --nbd-tls and --seed are for another transport", remedy="--transport nbd"
        )
    return None
