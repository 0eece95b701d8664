"""The series of several processes in pages."""

from typing import Any

from coordinator.write.remembered import Page
from coordinator.writers.series import Pages, paged


def process(*pages: list[str]) -> Pages:
    """One whose cache has these pages, 200 places each."""

    async def page(after: int) -> Page:
        number = after // 200
        found: list[dict[str, Any]] = [{"path": name} for name in pages[number]] if pages else []
        return Page(paths=found, next=after + 200 if number + 1 < len(pages) else None)

    return page


async def test_one_process_after_the_other() -> None:
    page = paged([process(["a"], ["b", "c"]), process(), process(["a"]), process()])
    after: int | None = 0
    found, places = [], []
    while after is not None:
        one = await page(after)
        found += [path["path"] for path in one.paths]
        places.append(after)
        after = one.next
    assert found == ["a", "b", "c", "a"]
    assert places[1] == 200
    assert len(set(places)) == 5
    assert (await page(9 << 40)) == Page()
