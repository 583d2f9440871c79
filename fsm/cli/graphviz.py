"""Draws with Graphviz, which must be installed."""

from __future__ import annotations

import subprocess

from fsm.errors import BadInput, FsmError

TIMEOUT_S = 60


def draw(dot: str, language: str) -> bytes:
    """The picture as ``svg`` or ``png``. Raises ``BadInput`` without Graphviz, ``FsmError`` if it fails."""
    command = ["dot", f"-T{language}", *(["-Gdpi=144"] if language == "png" else [])]
    try:
        done = subprocess.run(
            command, input=dot.encode(), capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise BadInput(
            "Graphviz is not installed, which draws this format",
            remedy="apt-get install graphviz; or take --format mermaid, which needs nothing",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise FsmError(f"Graphviz did not end within {TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise FsmError(f"Graphviz failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
