"""Reads ``states.yaml`` strictly: every deviation is a ``SpecError`` that names file and line.

The YAML is composed, not loaded, so that lines are known and YAML's guesses (``on`` read as true) never
reach the machine: a key that YAML does not take for a string is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from attrs import field, frozen
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from fsm.errors import SpecError
from fsm.machine.conditions import CONDITIONS
from fsm.machine.operations import Operation
from fsm.machine.spec import CONTINUE, WAIT, Kind, RecoverRow, RetryPolicy, Row, Spec, State, digest_of
from fsm.machine.vocabulary import ACTIONS, ACTIVITIES

FORMAT = "1"
_NAME = re.compile("[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LIVE_KEYS = frozenset({"activity", "timeout_s", "retry", "recover"})
_STATE_KEYS = frozenset({"kind", "meaning", "blocks"})
_ROW_KEYS = frozenset({"trigger", "source", "dest", "conditions", "actions"})
_ROW_OPTIONS = frozenset({"failure", "point_of_no_return"})
_RETRY_KEYS = frozenset({"attempts", "delay_s", "factor", "cap_s", "jitter"})

# libyaml's, where PyYAML was built with it: many times faster. It tells faults in words of its own, so it
# reads no file but the one that has none.
_QUICK = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def load_default() -> Spec:
    """The machine that ships with this package. That it is valid is proven when the package is tested."""
    return _read(files("fsm").joinpath("states.yaml").read_text("utf-8"), "states.yaml", _QUICK)


# Where the machine that ships with this package lies, when it lies in a file.
DEFAULT = Path(str(files("fsm").joinpath("states.yaml")))


def load(path: Path) -> Spec:
    """Read a machine from a file. Raises ``SpecError``, also when there is no such file."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"can't be read: {error}", file=str(path)) from error
    return loads(text, str(path))


def loads(text: str, file: str = "<spec>") -> Spec:
    """Read a machine from text; ``file`` is the name that errors give."""
    return _read(text, file, yaml.SafeLoader)


def _read(text: str, file: str, loader: Any) -> Spec:
    try:
        root = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise SpecError(f"is not YAML: {error.problem}", file=file, line=line) from error
    except yaml.YAMLError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error, ReaderError) else 0
        raise SpecError(f"is not YAML: {error}", file=file, line=line) from error
    except (ValueError, OverflowError) as error:
        # PyYAML lets an escape beyond Unicode ("\UFFFFFFFF") through to chr().
        raise SpecError(f"is not YAML: {error}", file=file) from error
    except RecursionError as error:
        raise SpecError("is nested too deeply", file=file) from error
    if root is None:
        raise SpecError("is empty", file=file)
    return _Reader(file).spec(root, digest_of(text))


_Choice = TypeVar("_Choice", Kind, Operation)


@frozen
class _Reader:
    file: str
    _states: dict[str, State] = field(factory=dict)

    def spec(self, root: Node, digest: str) -> Spec:
        top = self.mapping(root, "the file", required=frozenset({"format", "states", "transitions"}))
        if (found := self.text(top["format"], "format")) != FORMAT:
            self.fail(top["format"], f"format {found} is not known; this version reads format {FORMAT}")
        for name, node in self.mapping(top["states"], "states").items():
            self.name(node, name, "state")
            self._states[name] = self.state(name, node)
        rows = [
            row for node in self.sequence(top["transitions"], "transitions") for row in self.transition(node)
        ]
        return Spec(self._states, tuple(rows), self.file, digest)

    def state(self, name: str, node: Node) -> State:
        keys = self.mapping(node, f"state {name!r}", required=_STATE_KEYS, optional=_LIVE_KEYS)
        kind = self.choice(keys["kind"], f"kind of state {name!r}", Kind)
        if kind is Kind.FINAL and (extra := _LIVE_KEYS & keys.keys()):
            self.fail(node, f"final state {name!r} can't have {', '.join(sorted(extra))}")
        if kind is not Kind.FINAL and (missing := _LIVE_KEYS - keys.keys()):
            self.fail(node, f"state {name!r} lacks {', '.join(sorted(missing))}")
        listed = self.sequence(keys["blocks"], "blocks")
        # A list in the list stands for its items, so that a state may add to what others block.
        items = [item for n in listed for item in (n.value if isinstance(n, SequenceNode) else [n])]
        blocks = [self.choice(n, "operation", Operation) for n in self.distinct(items, "operation")]
        common = (name, kind, self.text(keys["meaning"], "meaning"), frozenset(blocks))
        if kind is Kind.FINAL:
            return State(*common, line=node.start_mark.line + 1)
        return State(
            *common,
            activity=self.activity(keys["activity"]),
            timeout_s=self.number_or_none(keys["timeout_s"], "timeout_s"),
            retry=self.retry(keys["retry"]),
            recover=tuple(self.recover(n) for n in self.sequence(keys["recover"], "recover")),
            line=node.start_mark.line + 1,
        )

    def activity(self, node: Node) -> str | None:
        name = self.text(node, "activity")
        if name != "none" and name not in ACTIVITIES:
            self.fail(node, f"activity {name!r} is not known; known: none, {', '.join(ACTIVITIES)}")
        return None if name == "none" else name

    def retry(self, node: Node) -> RetryPolicy:
        if isinstance(node, ScalarNode) and node.value == "none":
            return RetryPolicy()
        keys = self.mapping(node, "retry", required=_RETRY_KEYS)
        limit = self.text(keys["attempts"], "attempts")
        attempts = None if limit == "unlimited" else self.whole_number(keys["attempts"], "attempts")
        names = ("delay_s", "factor", "cap_s", "jitter")
        policy = RetryPolicy(attempts, *(self.number(keys[name], name) for name in names))
        if policy.jitter >= 1 or not 1 <= policy.factor <= 100 or not 0 < policy.delay_s <= policy.cap_s:
            self.fail(node, "retry wants jitter < 1, factor from 1 to 100 and 0 < delay_s <= cap_s")
        return policy

    def recover(self, node: Node) -> RecoverRow:
        keys = self.mapping(node, "recover row", required=frozenset({"when", "do"}))
        return RecoverRow(
            self.conditions(keys["when"]), self.text(keys["do"], "do"), node.start_mark.line + 1
        )

    def transition(self, node: Node) -> list[Row]:
        keys = self.mapping(node, "transition", required=_ROW_KEYS, optional=_ROW_OPTIONS)
        trigger = self.text(keys["trigger"], "trigger")
        if trigger in (CONTINUE, WAIT):
            self.fail(keys["trigger"], f"{trigger!r} is no trigger: recover rows use the word")
        self.name(keys["trigger"], trigger, "trigger")
        where = keys["source"]
        nodes = self.sequence(where, "source") if isinstance(where, SequenceNode) else [where]
        sources = [self.known_state(n) for n in self.distinct(nodes, "source state")]
        actions = self.known_names(keys["actions"], "action", ACTIONS)
        conditions = self.conditions(keys["conditions"])
        dest = self.known_state(keys["dest"])
        flags = {name: self.flag(keys[name], name) for name in _ROW_OPTIONS & keys.keys()}
        line = node.start_mark.line + 1
        return [Row(trigger, source, dest, conditions, actions, line=line, **flags) for source in sources]

    def conditions(self, node: Node) -> tuple[str, ...]:
        return self.known_names(node, "condition", CONDITIONS)

    def known_names(self, node: Node, what: str, known: Collection[str]) -> tuple[str, ...]:
        nodes = self.distinct(self.sequence(node, f"{what}s"), what)
        for item in nodes:
            if item.value not in known:
                self.fail(item, f"{what} {item.value!r} is not known; known: {', '.join(known)}")
        return tuple(str(item.value) for item in nodes)

    def known_state(self, node: Node) -> str:
        name = self.text(node, "state")
        if name not in self._states:
            self.fail(node, f"state {name!r} is not described under `states`")
        return name

    # -- YAML nodes -----------------------------------------------------------------------------------

    def mapping(
        self,
        node: Node,
        what: str,
        *,
        required: frozenset[str] | None = None,
        optional: frozenset[str] = frozenset(),
    ) -> dict[str, Node]:
        """The entries of a mapping; where ``required`` is given, no keys but those and ``optional``."""
        if not isinstance(node, MappingNode):
            self.fail(node, f"{what} must be a mapping")
        found: dict[str, Node] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                shown = repr(key.value) if isinstance(key, ScalarNode) else "that is a collection"
                self.fail(key, f"key {shown} of {what} is not read as a string by YAML: quote it")
            if key.value in found:
                self.fail(key, f"{what} has the key {key.value!r} twice")
            if required is not None and key.value not in required | optional:
                known = ", ".join(sorted(required | optional))
                self.fail(key, f"{what} has the unknown key {key.value!r}; known: {known}")
            found[key.value] = value
        if missing := (required or frozenset()) - found.keys():
            self.fail(node, f"{what} lacks {', '.join(sorted(missing))}")
        return found

    def sequence(self, node: Node, what: str) -> list[Node]:
        if not isinstance(node, SequenceNode):
            self.fail(node, f"{what} must be a list; write [] for none")
        return list(node.value)

    def text(self, node: Node, what: str) -> str:
        if not isinstance(node, ScalarNode) or not node.value or node.tag.endswith((":bool", ":null")):
            shown = repr(node.value) if isinstance(node, ScalarNode) else "a collection"
            self.fail(node, f"{what} must be a plain text, not {shown}")
        return str(node.value)

    def name(self, node: Node, name: str, what: str) -> None:
        # Not only for looks: to the library below, "*" as a source means every state and "=" as a
        # destination the source.
        if not _NAME.fullmatch(name):
            self.fail(node, f"{what} {name!r} is no name: small letters, digits and hyphens, a letter first")

    def whole_number(self, node: Node, what: str) -> int:
        value = self.number(node, what)
        if not value.is_integer():
            self.fail(node, f"{what} must be a whole number, not {value}")
        return int(value)

    def number(self, node: Node, what: str) -> float:
        text = self.text(node, what)
        try:
            value = float(text)
        except ValueError:
            self.fail(node, f"{what} must be a number, not {text!r}")
        if not 0 <= value < float("inf"):
            self.fail(node, f"{what} must be a number from 0 on, not {text!r}")
        return value

    def number_or_none(self, node: Node, what: str) -> float | None:
        if self.text(node, what) == "none":
            return None
        if (value := self.number(node, what)) == 0:
            self.fail(node, f"{what} must be above 0; write none for no limit")
        return value

    def flag(self, node: Node, what: str) -> bool:
        if not isinstance(node, ScalarNode) or node.value not in ("true", "false"):
            self.fail(node, f"{what} must be true or false")
        return bool(node.value == "true")

    def choice(self, node: Node, what: str, among: type[_Choice]) -> _Choice:
        text = self.text(node, what)
        try:
            return among(text)
        except ValueError:
            self.fail(node, f"{what}: {text!r} is not known; known: {', '.join(among)}")

    def distinct(self, nodes: list[Node], what: str) -> list[Node]:
        """The nodes of a list, each of which must be a plain text of its own."""
        seen: set[str] = set()
        for node in nodes:
            name = self.text(node, what)
            if name in seen:
                self.fail(node, f"{what} {name!r} is named twice")
            seen.add(name)
        return nodes

    def fail(self, node: Node, message: str) -> NoReturn:
        raise SpecError(message, file=self.file, line=node.start_mark.line + 1)
