"""Rules from KV: the namespaces and their rule sets, followed while the coordinator runs (docs/m3/metrics.md, rules in the KV).

``KVRules`` is the core: values in, rules in effect out. A value that cannot be loaded changes nothing: the last good rules stay in
effect, and ``problems`` says so until there is a good one. ``RuleWatcher`` is the shell: it owns the watches.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

from coordinator.downsample.rules import RulesInEffect
from m3cluster.following import follow
from m3cluster.keys import rule_namespaces_key, rule_set_key
from m3cluster.kv import KeyNotFoundError, KVError, Store, Value, VersionMismatchError
from m3cluster.proto import DecodeError, decode
from m3cluster.proto.rules import NAMESPACES, RULE_SET
from m3metrics.rules import Namespace, RulesError, RuleSet, namespaces_from, rule_set_from
from m3x.instrument import Scope
from m3x.log import logger

INIT_TIMEOUT_S = 10.0
"""How long the start waits for the first values."""

log = logger(__name__)


class RuleInitError(Exception):
    """The namespaces of rules could not be read at the start, and ``requireNamespaceWatchOnInit`` asks for them."""


class KVRules:
    """Which namespaces there are and what their rule sets say."""

    def __init__(self, rules: RulesInEffect, scope: Scope, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._rules = rules
        self._scope = scope
        self._now_ns = now_ns
        self._listed: dict[str, Namespace] = {}
        self._loaded: dict[str, RuleSet] = {}
        self._data: dict[str, bytes] = {}
        """Of what is loaded."""
        self._broken: dict[str, str] = {}
        """By what is broken: the namespaces (empty text) or one of them."""

    @property
    def watched(self) -> set[str]:
        """Namespaces whose rule sets are to be followed."""
        return {name for name in {*self._listed, *self._loaded} if not self._is_over(name)}

    def stored(self) -> dict[str, tuple[int, bytes]]:
        """Namespace → version and value of the rule set that is in effect."""
        return {name: (rule_set.version, self._data[name]) for name, rule_set in self._loaded.items()}

    def problems(self) -> list[str]:
        """What could not be loaded and what is in effect instead, one line each."""
        return list(self._broken.values())

    def namespaces_changed(self, value: Value | None) -> None:
        """``/namespaces`` has a new value; None: it was deleted."""
        if value is None:
            self._complain("", "the rules' namespaces (/namespaces) were deleted; those known before stay in effect")
            return
        try:
            listed = {namespace.name: namespace for namespace in namespaces_from(decode(NAMESPACES, value.data))}
        except (DecodeError, RulesError) as error:
            self._complain(
                "", f"version {value.version} of the rules' namespaces (/namespaces) is not usable and ignored: {error}"
            )
            return
        self._mend("")
        for name in self._listed.keys() - listed.keys():
            if name not in self._loaded:
                self._mend(name)
        self._listed = listed
        self._remove_what_is_over()

    def rule_set_changed(self, name: str, value: Value | None) -> None:
        """The rule set of a namespace has a new value; None: it was deleted, or is not there yet."""
        before = self._loaded.get(name)
        if value is None:
            if before is not None:
                text = f"the rule set of namespace {name!r} was deleted; its version {before.version} stays in effect"
                self._complain(name, text)
            return
        if before is not None and (before.version, self._data[name]) == (value.version, value.data):
            self._mend(name)
            return
        try:
            rule_set = rule_set_from(decode(RULE_SET, value.data), value.version)
        except (DecodeError, RulesError) as error:
            instead = f"version {before.version} stays in effect" if before is not None else "no rules are in effect"
            self._complain(
                name, f"version {value.version} of the rule set of namespace {name!r} is not usable: {error}; {instead}"
            )
            return
        self._mend(name)
        self._loaded[name], self._data[name] = rule_set, value.data
        self._rules.put(name, rule_set)
        scope = self._scope.tagged(namespace=name)
        scope.count("updates")
        scope.gauge("version", value.version)
        log.info(
            "rules loaded",
            namespace=name,
            version=value.version,
            mapping_rules=len(rule_set.mapping_rules),
            rollup_rules=len(rule_set.rollup_rules),
        )
        for warning in self._rules.warnings_of(name):
            log.warning(warning)
        self._remove_what_is_over()

    def _is_over(self, name: str) -> bool:
        """M3's two ways for a namespace to go (docs/m3/metrics.md, rules in the KV)."""
        listed, loaded = self._listed.get(name), self._loaded.get(name)
        if listed is not None:
            version = loaded.version if loaded is not None else 0
            return listed.tombstoned and listed.for_version == version
        return loaded is None or (loaded.tombstoned and loaded.cutover_ns <= self._now_ns())

    def _remove_what_is_over(self) -> None:
        for name in [name for name in self._loaded if self._is_over(name)]:
            del self._loaded[name], self._data[name]
            self._rules.remove(name)
            self._mend(name)
            log.info("rules removed: their namespace was deleted", namespace=name)

    def _complain(self, name: str, text: str) -> None:
        self._broken[name] = text
        self._scope.count("errors")
        self._scope.gauge("broken", len(self._broken))
        log.error(text)

    def _mend(self, name: str) -> None:
        self._broken.pop(name, None)
        self._scope.gauge("broken", len(self._broken))


class RuleWatcher:
    """Keeps rules up to date until ``run`` is cancelled."""

    def __init__(self, store: Store, environment: str, rules: KVRules, *, require: bool = False) -> None:
        self._store = store
        self._environment = environment
        self._rules = rules
        self._require = require
        self._watching: dict[str, asyncio.Task[None]] = {}

    async def load(self, timeout_s: float = INIT_TIMEOUT_S) -> None:
        """Reads what is there now, so that the first series meet the rules. Raises ``RuleInitError`` where they are required."""
        try:
            async with asyncio.timeout(timeout_s):
                if not self._require:
                    await create_namespaces(self._store, self._environment)
                self._rules.namespaces_changed(await self._store.get(rule_namespaces_key(self._environment)))
                for name in self._rules.watched:
                    await self._load_rule_set(name)
        except (KVError, TimeoutError) as error:
            text = f"the rules in KV could not be read: {error or 'no answer'}"
            if self._require:
                raise RuleInitError(f"{text} (downsample.matcher.requireNamespaceWatchOnInit is set)") from error
            log.error(f"{text}; going on without rules until they can be")

    async def _load_rule_set(self, name: str) -> None:
        try:
            self._rules.rule_set_changed(name, await self._store.get(rule_set_key(self._environment, name)))
        except KeyNotFoundError:
            log.warning("a namespace of rules has no rule set yet", namespace=name)

    async def run(self) -> None:
        """Follows the namespaces and every rule set."""
        async with asyncio.TaskGroup() as group:

            def changed(value: Value | None) -> None:
                self._rules.namespaces_changed(value)
                self._watch(group)

            await follow(self._store, rule_namespaces_key(self._environment), _as_it_is, changed)

    def _watch(self, group: asyncio.TaskGroup) -> None:
        wanted = self._rules.watched
        for name in self._watching.keys() - wanted:
            self._watching.pop(name).cancel()
        for name in wanted - self._watching.keys():

            def changed(value: Value | None, name: str = name) -> None:
                self._rules.rule_set_changed(name, value)

            following = follow(self._store, rule_set_key(self._environment, name), _as_it_is, changed)
            self._watching[name] = group.create_task(following, name=f"rules of {name}")


def _as_it_is(value: Value) -> Value:
    """``KVRules`` reads values itself: what it says of a broken one depends on what is in effect."""
    return value


async def create_namespaces(store: Store, environment: str) -> None:
    """Writes the empty list of namespaces if there is none yet, as M3 does at every start. Raises ``KVError``."""
    with contextlib.suppress(VersionMismatchError):
        await store.set_if_not_exists(rule_namespaces_key(environment), b"")
