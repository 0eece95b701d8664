"""Errors of the store."""


class StoreError(Exception):
    """Storage could not do what was asked; trying again later may help."""


class QueryTooLargeError(StoreError):
    """A read would return more points than the configured bound."""
