"""A polkit rule that has libvirt refuse other clients what would harm a domain while its overlay exists.

A rule can't learn what libvirt knows of a domain (``docs/decisions.md`` says why), so the engine leaves signs
on the host: empty files in a directory of their own, made through libvirt before the overlay is and removed
after it. Their names say what is held, the domain by UUID and each of its files by path. A host takes part
once it has a storage pool on that directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from fsm.machine.permissions import refused_permissions
from fsm.machine.spec import Spec

POOL = "fsm-guard"
SIGNS = "/var/lib/libvirt/fsm-guard"
RULE_FILE = "00-fsm-guard.rules"
"""polkit asks rules in the order of their files' names; the first that answers decides."""

# A file name holds 255 bytes. What is cut off a long path may have another file refused as well, at worst.
_KEPT_CHARACTERS = 200

# Removing a sign would end the guard: in the pool of the signs nothing may be changed at any time.
_POOL_PERMISSIONS = (
    *("storage-pool.delete", "storage-pool.format", "storage-pool.stop", "storage-pool.write"),
    *("storage-vol.create", "storage-vol.data-write", "storage-vol.delete", "storage-vol.format"),
    "storage-vol.resize",
)


def sign_paths(domain_uuid: str, files: Iterable[str]) -> tuple[str, ...]:
    """The signs for a domain and for these of its files, the domain's own first."""
    volumes = (quote(file, safe="")[-_KEPT_CHARACTERS:] for file in files)
    return (f"{SIGNS}/domain-{domain_uuid}", *(f"{SIGNS}/volume-{volume}" for volume in volumes))


def rule(spec: Spec, exempt: Sequence[str] = ()) -> str:
    """The rule. It never permits anything: it refuses, or leaves the answer to the rules behind it.

    ``exempt`` names users that it leaves alone; polkit asks no rule about root. Where the rule can't look for
    signs it refuses.
    """
    values = {
        "@MACHINE@": spec.digest,
        "@EXEMPT@": json.dumps(list(exempt)),
        "@REFUSED@": _listed(refused_permissions(spec)),
        "@POOL_REFUSED@": _listed(_POOL_PERMISSIONS),
        "@POOL@": POOL,
        "@SIGNS@": SIGNS,
        "@KEPT@": str(_KEPT_CHARACTERS),
    }
    text = _RULE
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def _listed(names: Iterable[str]) -> str:
    return "[\n" + ",\n".join(f"    {json.dumps(name)}" for name in names) + "\n]"


# ECMAScript 5, which is what polkit's engines have in common. All rules share one global scope.
_RULE = """\
// Made by `fsm guard polkit` from the machine @MACHINE@. Don't change it, make it anew.
(function () {

var exempt = @EXEMPT@;

// Refused on a domain or volume that has a sign.
var refused = @REFUSED@;

// Refused in the pool of the signs.
var pool_refused = @POOL_REFUSED@;

var prefix = "org.libvirt.api.";

function refuse(permission, object, subject, why) {
    polkit.log("fsm: " + permission + " on " + object + " refused to " + subject.user + ": " + why);
    return polkit.Result.NO;
}

function quote(text) {
    return encodeURIComponent(text).replace(/[!'()*]/g, function (character) {
        return "%" + character.charCodeAt(0).toString(16).toUpperCase();
    });
}

polkit.addRule(function (action, subject) {
    if (action.id.indexOf(prefix) !== 0 || exempt.indexOf(subject.user) >= 0) {
        return polkit.Result.NOT_HANDLED;
    }
    var permission = action.id.substring(prefix.length);
    if (action.lookup("pool_name") === "@POOL@" && pool_refused.indexOf(permission) >= 0) {
        return refuse(permission, "pool @POOL@", subject, "it holds the signs of migrations");
    }
    if (refused.indexOf(permission) < 0) {
        return polkit.Result.NOT_HANDLED;
    }
    var domain = permission.indexOf("domain.") === 0;
    var object = action.lookup(domain ? "domain_uuid" : "vol_key");
    var sign, signs;
    try {
        sign = domain ? "domain-" + object : "volume-" + quote(object).slice(-@KEPT@);
        signs = polkit.spawn(["/bin/ls", "-A", "@SIGNS@"]).split("\\n");
    } catch (error) {
        return refuse(permission, object, subject, "no look at the signs of migrations: " + error);
    }
    if (signs.indexOf(sign) < 0) {
        return polkit.Result.NOT_HANDLED;
    }
    return refuse(permission, object, subject, "it is being migrated and its overlay exists");
});

})();
"""
