"""What the laboratory raises."""

__all__ = ["LabError"]


class LabError(Exception):
    """Something cannot start or go on; the message says why and what to do."""
