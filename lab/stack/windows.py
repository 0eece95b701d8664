"""What arrives in storage: the windows that a coordinator has committed."""

import json
import time

from lab.http import try_get

__all__ = ["new_windows"]


def new_windows(base_url: str, since: int) -> tuple[list[str], int]:
    """One line per window committed after ``since``, and what to ask from the next time."""
    status, body = try_get(f"{base_url}/api/v1/windows?since={since}")
    if status != 200:
        return [], since
    answer = json.loads(body)
    lines = []
    for window in answer["windows"]:
        at = time.strftime("%H:%M:%S", time.localtime(window["time_ms"] / 1000))
        shown = ", ".join(f"{one['series']}={one['value']}" for one in window["samples"][:3])
        lines.append(f"{at}  {window['policy']:<8} {window['count']:>6} values  {shown}")
    return lines, int(answer["next"])
