"""What series are called in M3DB, for the tables in use."""

from weakref import WeakKeyDictionary

from coordinator.sinks.series import SeriesTable
from m3db.write import FormRules, SeriesForms

__all__ = ["FormCache"]


class FormCache:
    """The forms of each table, made by the same rules; they end with their table."""

    def __init__(self, rules: FormRules) -> None:
        self.rules = rules
        """How they are made."""
        self._known: WeakKeyDictionary[SeriesTable, SeriesForms] = WeakKeyDictionary()

    def of(self, table: SeriesTable) -> SeriesForms:
        """Those of a table."""
        found = self._known.get(table)
        if found is None:
            found = self._known[table] = SeriesForms(self.rules)
        return found
