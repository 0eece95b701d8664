"""Carbon rules as namespaces come and go: rules name storage policies, and mean all of them where they name none."""

from collections.abc import Sequence

from coordinator.config import CoordinatorConfig, Namespace
from coordinator.downsample.policies import storage_judge
from coordinator.write.carbon import CarbonIngester
from coordinator.write.carbon_rules import CarbonRule, CarbonRulesError, rules_in, unstored
from m3x.config import Places
from m3x.log import logger

__all__ = ["CarbonRules"]

_log = logger(__name__)


class CarbonRules:
    """``rules``: those that ``core`` has already; None: none yet, so that it takes no line."""

    def __init__(
        self, config: CoordinatorConfig, places: Places, core: CarbonIngester, rules: Sequence[CarbonRule] | None
    ) -> None:
        self._config = config
        self._places = places
        self._core = core
        self._fault = ""
        self._waits = rules is None
        self._warnings: list[str] = []
        if rules is not None:
            self._warn(rules, config.namespaces)

    def problems(self) -> list[str]:
        """For ``/ready``, one line each."""
        if not self._waits and not self._fault:
            return self._warnings
        fate = "lines wait" if self._waits else "the rules stay as they were for the namespaces before"
        return [f"carbon: {self._fault or 'the namespaces are not known yet'}; {fate}", *self._warnings]

    def take(self, config: CoordinatorConfig, places: Places, namespaces: Sequence[Namespace]) -> None:
        """The file has other rules. Raises ``ValueError`` if they do not go with the namespaces, and changes nothing then."""
        if not self._waits:
            try:
                rules_in(config, namespaces)
            except CarbonRulesError as error:
                raise ValueError(str(error)) from error
        self._config, self._places = config, places
        if not self._waits:
            self.put(namespaces)

    def put(self, namespaces: Sequence[Namespace]) -> None:
        """These are the namespaces now. Rules that cannot work with them change nothing."""
        try:
            rules = rules_in(self._config, namespaces)
        except CarbonRulesError as error:
            self._fault = str(error)
            _log.warning("carbon rules do not go with the namespaces", problem=self._fault)
            return
        self._fault, self._waits = "", False
        self._core.set_rules(rules)
        self._warn(rules, namespaces)
        _log.info("carbon rules", rules=len(rules))

    def _warn(self, rules: Sequence[CarbonRule], namespaces: Sequence[Namespace]) -> None:
        self._warnings = unstored(rules, storage_judge(self._config, namespaces), self._places)
        for warning in self._warnings:
            _log.warning(warning)
