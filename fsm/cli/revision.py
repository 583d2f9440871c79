"""Machine descriptions of the past: files, or git revisions."""

from __future__ import annotations

import subprocess
from pathlib import Path

from fsm.errors import BadInput
from fsm.machine.loader import load, loads
from fsm.machine.spec import Spec

TIMEOUT_S = 30


def load_old(old: str, present: Path) -> Spec:
    """The machine in the file ``old``; else ``present`` as it was in the git revision ``old``.

    ``REVISION:PATH`` names another path. Raises ``BadInput`` when there is neither, and ``SpecError``.
    """
    path = Path(old)
    if path.is_file():
        return load(path)
    if old.startswith("-"):
        raise BadInput(f"{old!r} is neither a file nor a git revision")
    where = present.resolve()
    # Git's own rule: "./" is the directory that the command runs in.
    name = old if ":" in old else f"{old}:./{where.name}"
    command = ["git", "-C", str(where.parent), "show", name]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadInput(f"there is no file {old!r}, and git can't be asked: {error}") from error
    if done.returncode != 0:
        why = done.stderr.decode(errors="replace").strip()
        raise BadInput(
            f"{old!r} is neither a file nor a git revision with {where.name}: {why}",
            remedy="name a file, a revision, or REVISION:PATH",
        )
    return loads(done.stdout.decode(errors="replace"), name.replace(":./", ":"))
