"""What a reader of a running migration is told, line by line."""

from __future__ import annotations

import pytest

from fsm.cli.display import line_of
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
