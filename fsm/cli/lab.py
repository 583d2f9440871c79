"""``fsm lab``: two real hosts on this machine, and the demonstration on them."""

from __future__ import annotations

import click

from fsm.lab import Lab, LabStatus


@click.group()
def lab() -> None:
    """Two real libvirt hosts on this machine, in namespaces; needs root."""


@lab.command()
@click.argument("name", required=False)
@click.option("--no-guest", is_flag=True, help="Bring the hosts up without the guest.")
def up(name: str | None, no_guest: bool) -> None:
    """Bring a lab up: two hosts, and a guest with snapshots that writes all the time."""
    made = Lab.up(name, guest=not no_guest, progress=lambda text: click.echo(text, err=True))
    _show(made.status())


@lab.command()
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Take every lab down.")
def down(name: str | None, everything: bool) -> None:
    """Take a lab down, with every trace of it. Without a NAME there must be just one."""
    for found in _named(name, everything=everything):
        found.down()
        click.echo(f"lab {found.name} is down")


@lab.command()
@click.argument("name", required=False)
def status(name: str | None) -> None:
    """Show what the labs do now."""
    for found in _named(name, everything=name is None):
        _show(found.status())


@lab.command()
def demo() -> None:
    """Migrate a guest with snapshots there and, failing, back, and prove that nothing was lost."""
    from fsm.lab.demo import run

    run(click.echo)


def _named(name: str | None, *, everything: bool) -> list[Lab]:
    if name is not None:
        return [Lab.load(name)]
    names = Lab.names()
    if len(names) > 1 and not everything:
        raise click.UsageError(f"there are several labs: {', '.join(names)}; name one, or say --all")
    return [Lab.load(found) for found in names]


def _show(found: LabStatus) -> None:
    cut = ", hosts cut off from each other" if found.isolated else ""
    click.echo(f"lab {found.name}: {found.subnet} on {found.bridge}{cut}")
    for host in found.hosts:
        daemon = f"libvirtd {host.libvirtd_pid}" if host.libvirtd_pid else "no libvirtd"
        domains = ", ".join(f"{domain.name} ({domain.state})" for domain in host.domains or ())
        click.echo(f"  {host.name}  {host.uri}  {daemon}  {domains or 'no domains'}")
