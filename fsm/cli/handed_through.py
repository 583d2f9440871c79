"""The options of ``fsm migrate`` that go on to libvirt's migration, named as virsh names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from attrs import fields_dict

from fsm.engine.bad_input import COMPRESSION
from fsm.hypervisor.values import Tuning, Wiring

Command = Callable[..., Any]


def _flag(name: str, what: str) -> Callable[[Command], Command]:
    return click.option(name, is_flag=True, help=what)


def _number(name: str, unit: str, what: str, *names: str) -> Callable[[Command], Command]:
    return click.option(
        name, *names, type=click.IntRange(0), default=0, metavar=unit, help=f"{what}; 0: libvirt's choice."
    )


def _word(name: str, kind: str, what: str, *names: str) -> Callable[[Command], Command]:
    return click.option(name, *names, default="", metavar=kind, help=what)


_OPTIONS = (
    _flag("--auto-converge", "Slow the guest's CPUs down where memory does not converge."),
    _number("--auto-converge-initial", "PERCENT", "By how much at first"),
    _number("--auto-converge-increment", "PERCENT", "By how much more each time"),
    _number(
        "--max-downtime", "MS", "How long the guest may stand still at the switch-over", "max_downtime_ms"
    ),
    _flag("--parallel", "Send memory over several connections."),
    _number("--parallel-connections", "N", "How many"),
    _flag("--compress", "Compress memory on its way."),
    _word("--comp-methods", "METHOD[,METHOD]", f"How: {' or '.join(COMPRESSION)}."),
    _number("--comp-mt-level", "LEVEL", "For mt: how hard, 1 to 9"),
    _number("--comp-mt-threads", "N", "For mt: threads that compress"),
    _number("--comp-mt-dthreads", "N", "For mt: threads that decompress"),
    _number("--comp-xbzrle-cache", "BYTES", "For xbzrle: the size of its cache"),
    _flag("--abort-on-error", "An I/O error of the guest ends the migration."),
    _flag("--tls", "Encrypt libvirt's migration, with QEMU's certificates on both hosts."),
    _word("--tls-destination", "NAME", "The name in the destination's certificate, if not its address."),
    _word("--listen-address", "ADDRESS", "Where the destination listens."),
    _number("--disks-port", "PORT", "Where the destination takes the disks"),
    _word("--disks-uri", "URI", "The same as a URI."),
    _word("--graphics-uri", "URI", "Where clients of the display go."),
)


def handed_through(command: Command) -> Command:
    """Give a command these options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take(options: dict[str, Any]) -> dict[str, Any]:
    """Take them out of the command's ``options``, as the arguments of a request."""
    options["comp_methods"] = tuple(filter(None, options["comp_methods"].split(",")))
    return {
        "tuning": Tuning(**{name: options.pop(name) for name in fields_dict(Tuning)}),
        "wiring": Wiring(**{name: options.pop(name) for name in fields_dict(Wiring)}),
    }
