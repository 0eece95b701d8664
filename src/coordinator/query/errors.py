"""What a query can be refused for."""


class QueryError(Exception):
    """An answer other than 200. ``kind`` is Prometheus' ``errorType``."""

    def __init__(self, message: str, *, kind: str = "bad_data", status: int = 400) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
