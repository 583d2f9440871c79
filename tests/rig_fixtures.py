"""Two real hosts for a module, and the command with a journal of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab_rig import Rig, lab_in


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Without a guest. A module that wants more on its hosts makes it in a fixture of this name."""
    directory = tmp_path_factory.mktemp("labs")
    with lab_in(directory) as lab:
        yield Rig(lab, directory / "journal.db")
