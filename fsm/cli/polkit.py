"""``fsm guard polkit``: the guard for every other client of libvirt."""

from __future__ import annotations

import os
from pathlib import Path

import click

from fsm.errors import FsmError
from fsm.hypervisor.polkit import RULE_FILE, SIGNS, rule
from fsm.machine.loader import load, load_default

RULES = Path("/etc/polkit-1/rules.d")


@click.command()
@click.option(
    "--exempt", multiple=True, metavar="USER", help="Leave this user alone; root is never asked about."
)
@click.option("--install", is_flag=True, help="Put it into effect on this host; needs root.")
@click.pass_context
def polkit(context: click.Context, exempt: tuple[str, ...], install: bool) -> None:
    """Print a polkit rule that has libvirt refuse what would harm a domain while its overlay exists.

    libvirt asks polkit once its daemons have access_drivers = [ "polkit" ]; docs/polkit.md tells the rest.
    """
    states: Path | None = context.obj["states"]
    text = rule(load(states) if states else load_default(), exempt)
    if install:
        _install(text)
    else:
        click.echo(text, nl=False)


def _install(text: str) -> None:
    """The rule comes last: it refuses everything where there is no directory of signs."""
    from fsm.hypervisor.libvirt import sign_pool

    try:
        Path(SIGNS).mkdir(mode=0o755, exist_ok=True)
        Path(SIGNS).chmod(0o755)  # polkitd, which is not root, lists it
        click.echo(f"{SIGNS}: there")
        sign_pool.define("qemu:///system")
        click.echo("its storage pool: active")
        _write(RULES / RULE_FILE, text)
    except OSError as error:
        raise FsmError(
            f"the rule was not installed: {error}",
            remedy="run it as root on a host with libvirt and polkit; running it again does no harm",
        ) from error
    click.echo(f"{RULES / RULE_FILE}: written; polkitd has read it within a moment")


def _write(path: Path, text: str) -> None:
    """polkitd sees the old rule or the new one, never a part."""
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.chmod(0o644)
    new.replace(path)
