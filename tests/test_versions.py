"""The matrix of versions without hosts: its cells, its command line, its verdicts and its table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attrs import evolve
from click.testing import CliRunner

from fsm.lab import LabError
from fsm.machine.observation import Merge
from tests.faults.aftermath import Aftermath
from tests.versions.__main__ import main
from tests.versions.cells import Cell, Pair, cells, parse
from tests.versions.run import RIGHT, WRONG, Row, Version, judge
from tests.versions.table import all_right, line_of, markdown, save

FINE = Aftermath(
    hosts=("beta",),
    running=True,
    instances=1,
    acknowledged=1500,
    writes_lost=0,
    snapshots=3,
    snapshots_lost=0,
    leftovers=(),
    wrong=(),
)
OLD, NEW = Version("trixie", "11.3.0", "10.0.13"), Version("sid", "12.8.0", "11.1.3")
COMMITTED = Row(
    Cell(Pair("trixie", "trixie"), Merge.MIRROR), RIGHT, "", (OLD, OLD), "committed", aftermath=FINE
)
REFUSED = Row(
    Cell(Pair("trixie", "sid"), Merge.COMMIT),
    RIGHT,
    "",
    (OLD, NEW),
    "rolled-back",
    "load of migration failed",
    FINE,
    seconds=7.6,
)
FAILED = Row(Cell(Pair("sid", "sid"), Merge.COMMIT), WRONG, "could not be run: no | kernel")


def test_a_pair_is_two_suites() -> None:
    assert parse("bookworm:sid") == Pair("bookworm", "sid")
    assert str(parse("sid:trixie")) == "sid:trixie"


@pytest.mark.parametrize("text", ["sid", "", "sid:", ":sid", "sid:trixie:sid", "sid:9.0"])
def test_what_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(LabError, match=r"is no (pair of suites|suite of Debian)"):
        parse(text)


def test_the_matrix_goes_from_old_to_new_in_both_ways() -> None:
    found = [str(cell) for cell in cells()]
    assert len(found) == len(set(found)) == 18
    assert found[:3] == [
        "bookworm:bookworm commit copy",
        "bookworm:bookworm commit shared",
        "bookworm:bookworm mirror copy",
    ]
    assert not any(cell.startswith(("sid:trixie", "sid:bookworm", "trixie:bookworm")) for cell in found)
    assert [str(cell) for cell in cells([Pair("sid", "sid")], [Merge.MIRROR])] == ["sid:sid mirror copy"]


def test_a_suite_that_nobody_knows_is_told_of_before_anything_is_done() -> None:
    result = CliRunner().invoke(main, ["--pair", "trixie:potato"])
    assert result.exit_code == 2
    assert (
        "'potato' is no suite of Debian that the lab knows; use one of bookworm, trixie, sid" in result.output
    )


def test_nothing_lost_is_right_wherever_it_ended() -> None:
    assert judge("committed", "beta", FINE, "") == ""
    assert judge("rolled-back", "alpha", evolve(FINE, hosts=("alpha",)), "") == ""


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"hosts": ()}, "the domain is on no host"),
        ({"hosts": ("alpha", "beta")}, "the domain is on alpha and beta"),
        ({"instances": 2}, "2 instances"),
        ({"running": False}, "it does not run"),
        ({"acknowledged": 0}, "no write was acknowledged"),
        ({"writes_lost": 4}, "4 writes lost"),
        ({"snapshots_lost": 1}, "1 snapshots lost"),
        ({"leftovers": ("alpha: x",)}, "left behind: alpha: x"),
        ({"wrong": ("definition",)}, "changed: definition"),
    ],
)
def test_what_was_lost_is_told(changed: dict[str, object], told: str) -> None:
    assert judge("committed", "beta", evolve(FINE, **changed), "") == told


def test_no_end_and_no_revert_are_wrong() -> None:
    assert judge("stuck", "beta", FINE, "") == "ended in stuck"
    assert judge("", "beta", FINE, "") == "ended in no state"
    assert judge("committed", "beta", FINE, "no such snapshot") == "no revert: no such snapshot"


def test_the_table_is_markdown_and_gives_reasons() -> None:
    assert markdown([COMMITTED, REFUSED, FAILED]).splitlines() == [
        "| source | destination | merge | storage | outcome | snapshots kept | acknowledged writes found "
        "| left behind | revert afterwards |",
        "|" + " --- |" * 9,
        "| trixie | trixie | mirror | copy | committed | 3 of 3 | 1500 of 1500 | nothing | works |",
        "| trixie | sid | commit | copy | rolled-back | 3 of 3 | 1500 of 1500 | nothing | works |",
        "| sid | sid | commit | copy | **wrong** |  |  |  |  |",
        "",
        "- sid (libvirt 12.8.0, QEMU 11.1.3)",
        "- trixie (libvirt 11.3.0, QEMU 10.0.13)",
        "",
        "- trixie:sid commit copy, rolled-back: load of migration failed",
        "- sid:sid commit copy, wrong: could not be run: no | kernel",
    ]


def test_what_is_in_a_cell_of_the_table_does_not_end_it() -> None:
    row = evolve(COMMITTED, verdict=WRONG, aftermath=evolve(FINE, leftovers=("beta: a|b",), writes_lost=2))
    line = markdown([row]).splitlines()[2]
    assert "| committed **wrong** | 3 of 3 | 1498 of 1500 | beta: a\\|b | works |" in line


def test_one_wrong_cell_makes_all_wrong() -> None:
    assert all_right([COMMITTED, REFUSED])
    assert not all_right([COMMITTED, FAILED])


def test_a_line_tells_of_each_cell() -> None:
    assert line_of(REFUSED) == "trixie:sid commit copy: right, rolled-back (8 s)"


def test_every_value_is_kept_as_json(tmp_path: Path) -> None:
    save([REFUSED], tmp_path / "rows.json")
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["cell"] == {
        "pair": {"source": "trixie", "destination": "sid"},
        "merge": "commit",
        "storage": "copy",
    }
    assert row["aftermath"]["acknowledged"] == 1500
