"""libvirt's own access control on a host: a message bus and a polkitd of its own, and an ordinary user.

A client without authentication, as every TCP client of a lab is, has no identity that polkit could judge.
So such a host listens on its unix socket alone; the engine and the other host come as root over SSH, or
rather by a program that libvirt is told to use in place of ``ssh`` and that enters the host's namespaces.
"""

from __future__ import annotations

from pathlib import Path

from fsm.lab.host import SSH, LabHost
from fsm.lab.process import wait_until

USER = "fsm-user"
"""An ordinary user of the host, in the group whose members may use libvirt."""
RULES = "/etc/polkit-1/rules.d"
LOG = "/var/log/libvirt/polkitd.log"
"""What polkitd says, its rules' own messages included."""
_GROUP = "libvirt"
_USER_ID = 59999
_BUS = "/run/dbus"
_POLKITD = "/usr/lib/polkit-1/polkitd"

# Replaces the lines on TCP and authentication of the host's libvirtd.conf, which is written first.
_LIBVIRTD_CONF = f"""\
listen_tls = 0
listen_tcp = 0
unix_sock_group = "{_GROUP}"
auth_unix_ro = "polkit"
auth_unix_rw = "polkit"
access_drivers = ["polkit"]
"""

# Without service files: nothing is started on demand, polkitd runs because the lab has started it.
_BUS_CONF = f"""\
<busconfig>
  <type>system</type>
  <fork/>
  <pidfile>{_BUS}/pid</pidfile>
  <auth>EXTERNAL</auth>
  <listen>unix:path={_BUS}/system_bus_socket</listen>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""

# What an operator has to write who turns access control on: without it libvirt denies all but reading.
_OPERATORS_RULE = f"""\
polkit.addRule(function (action, subject) {{
    if (action.id.indexOf("org.libvirt.api.") == 0 && subject.isInGroup("{_GROUP}")) {{
        return polkit.Result.YES;
    }}
}});
"""

# Called as `ssh [options] -- HOST COMMAND...`.
_SSH = """\
#!/bin/sh
while [ "$1" != "--" ]; do shift; done
shift 2
exec nsenter --target {holder} --mount --net --uts -- sh -c "$*"
"""


def furnish(host: LabHost) -> None:
    """Turn access control on, on a furnished host whose libvirtd does not run yet."""
    conf = host.directory / "etc/libvirtd.conf"
    lines = conf.read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(("#", "listen_", "auth_"))]
    conf.write_text("".join(kept) + _LIBVIRTD_CONF, "utf-8")
    _bind(host, "bus", _BUS)
    _bind(host, "rules", RULES)
    host.path(f"{RULES}/50-operators.rules").write_text(_OPERATORS_RULE, "utf-8")
    (host.directory / "bus.conf").write_text(_BUS_CONF, "utf-8")
    _add_user(host)
    ssh = host.directory / SSH
    ssh.write_text(_SSH.format(holder=host.holder.pid if host.holder else 0), "utf-8")
    ssh.chmod(0o755)


def start(host: LabHost) -> None:
    """Start the message bus and polkitd; they end with the host."""
    host.run(["dbus-daemon", f"--config-file={host.directory / 'bus.conf'}"])
    host.run(["sh", "-c", f"exec setsid --fork {_POLKITD} >{LOG} 2>&1"])
    bus = "org.freedesktop.DBus"
    asked = ["dbus-send", "--system", "--print-reply=literal", f"--dest={bus}", "/", f"{bus}.NameHasOwner"]
    asked.append("string:org.freedesktop.PolicyKit1")
    wait_until(
        lambda: host.run(asked).split() == ["boolean", "true"], timeout=20, what=f"{host.name}: polkitd"
    )


def as_user(*words: str) -> list[str]:
    """A command to be run on a host by its ordinary user."""
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", "--", *words]


def _bind(host: LabHost, below: str, inside: str) -> None:
    private = host.directory / below
    private.mkdir()
    private.chmod(0o755)
    Path(inside).mkdir(parents=True, exist_ok=True)
    host.run(["mount", "--bind", str(private), inside])


def _add_user(host: LabHost) -> None:
    """Give the host users and groups of its own: polkit looks them up by name."""
    for name, line in (
        ("passwd", f"{USER}:x:{_USER_ID}:{_USER_ID}::/nonexistent:/bin/sh"),
        ("group", f"{USER}:x:{_USER_ID}:"),
    ):
        lines = [*Path("/etc", name).read_text("utf-8").splitlines(), line]
        if name == "group":
            lines = [_with_member(one) if one.startswith(f"{_GROUP}:") else one for one in lines]
        (host.directory / name).write_text("\n".join(lines) + "\n", "utf-8")
        host.run(["mount", "--bind", str(host.directory / name), f"/etc/{name}"])


def _with_member(line: str) -> str:
    members = [name for name in line.rpartition(":")[2].split(",") if name]
    return line.rpartition(":")[0] + ":" + ",".join([*members, USER])
