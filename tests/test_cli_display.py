"""What a reader of a running migration is told, line by line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fsm.cli.display import Lines, line_of
from fsm.engine.plan import Rescued
from fsm.journal.records import Phase, Record, Step, converter

RESCUED = Rescued("of theirs", ("/images/web-vda.qcow2.rescued", "/images/web-vdb.qcow2.rescued"), "<xml/>")


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (Record(Step.ACTION, Phase.INTENT, "create-overlays", "planned"), ""),
        (
            Record(Step.ACTION, Phase.OUTCOME, "create-overlays", "planned", error="no room"),
            "planned: create-overlays failed: no room",
        ),
        (Record(Step.ACTIVITY, Phase.INTENT, "copy-bases", "snapshotted"), "snapshotted: copy-bases"),
        (Record(Step.ACTIVITY, Phase.OUTCOME, "copy-bases", "snapshotted"), ""),
        (
            Record(Step.TRANSITION, Phase.OUTCOME, "transfer", "snapshotted", "transferring"),
            "snapshotted -> transferring (transfer)",
        ),
        (
            Record(
                Step.ACTION,
                Phase.OUTCOME,
                "rescue-snapshot",
                "stuck",
                data={"rescued": converter.unstructure([RESCUED])},
            ),
            "snapshot of theirs was saved: /images/web-vda.qcow2.rescued, /images/web-vdb.qcow2.rescued",
        ),
        (
            Record(Step.ACTION, Phase.OUTCOME, "space-short", "transferring", data={"warning": "tight"}),
            "transferring: tight",
        ),
        (
            Record(
                Step.ACTIVITY,
                Phase.OUTCOME,
                "copy-bases",
                "snapshotted",
                data={"copies_verified": True, "compression": "the link is slow"},
            ),
            "snapshotted: copy-bases: the link is slow",
        ),
    ],
    ids=["intent", "failure", "activity", "done", "transition", "rescued", "warning", "compression"],
)
def test_a_record_in_one_line(record: Record, line: str) -> None:
    assert line_of(record) == line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file that is always full")
def test_a_full_disk_under_the_output_changes_nothing_about_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        for _ in range(2):
            Lines().say("committed")
