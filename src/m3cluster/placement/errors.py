"""What goes wrong when placements are made."""

__all__ = ["PlacementError"]


class PlacementError(Exception):
    """No placement can be made of what was asked for; the message is M3's where M3 has one."""
