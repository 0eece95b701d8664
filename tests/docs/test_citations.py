"""What code and pages cite exists: pages, their sections, the targets of links.

The forms of a citation, each on one line:

``docs/PAGE.md``              the page exists; PAGE may have folders in it
``docs/m3/PAGE.md, HEADING``  and has that heading, whatever the case. The heading ends at one of ``) ] ; , . : "`` or a backtick, and at
                              the end of the line. A comma behind a page of ``docs/m3`` always begins a heading
``docs/architecture.md §N``   and has a heading that begins with ``N.``; further sections follow as ``, §N``. A ``§`` stands nowhere else
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "tests", "bench", "lab", "scripts", "configs", "docs")
PAGE = re.compile(r"(?<![\w/.-])docs/((?:[\w-]+/)*[\w-]+\.md)")
HEADING = re.compile(r'\s*([^)\];,.:"`]*)')
SECTION = re.compile(r"(?<![\w-])architecture\.md(?:\)|`)? (§\d+(?:, §\d+)*)")
LINK = re.compile(r"\]\(([^)\s]*)\)")


def headings(markdown: str) -> list[str]:
    """The texts of all headings below the title, in lower case; code is left out."""
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return [found.strip().lower() for found in re.findall(r"^##+ (.*)$", text, flags=re.MULTILINE)]


def numbers(markdown: str) -> set[str]:
    """The numbers with which its headings begin."""
    return {found.group(1) for text in headings(markdown) if (found := re.match(r"(\d+)\.", text))}


def anchors(markdown: str) -> set[str]:
    """The names under which links reach its headings: lower case, without marks, hyphens for spaces."""
    titles = [*headings(markdown), *(found.lower() for found in re.findall(r"^# (.*)$", markdown, flags=re.MULTILINE))]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def faults(text: str, root: Path) -> Iterator[str]:
    """One line for each citation in ``text`` that leads nowhere below ``root``."""
    for number, line in enumerate(text.splitlines(), 1):
        for found in PAGE.finditer(line):
            page = root / "docs" / found.group(1)
            if not page.is_file():
                yield f"{number}: there is no page {found.group()}"
                continue
            rest = line[found.end() :]
            if found.group(1).startswith("m3/") and rest.startswith(","):
                cited = HEADING.match(rest, 1).group(1).strip()  # type: ignore[union-attr]
                if not cited:
                    yield f"{number}: no heading behind {found.group()},; it has to stand on the same line"
                elif cited.lower() not in headings(page.read_text(encoding="utf-8")):
                    yield f"{number}: {found.group()} has no heading {cited!r}"
        good = 0
        for found in SECTION.finditer(line):
            known = numbers((root / "docs/architecture.md").read_text(encoding="utf-8"))
            cited_numbers = re.findall(r"\d+", found.group(1))
            good += len(cited_numbers)
            yield from (f"{number}: docs/architecture.md has no §{n}" for n in cited_numbers if n not in known)
        if line.count("§") != good:
            yield f"{number}: a § that is no section of docs/architecture.md"
        if re.search(r"(?<![\w/.-])reference/\w+\.md", line):
            yield f"{number}: a page that is not in the repository"


def files(root: Path) -> list[Path]:
    """Everything that may cite: text below ``FOLDERS`` and the README, but not this file, which is full of examples."""
    found = [path for folder in FOLDERS for path in (root / folder).rglob("*") if path.is_file()]
    kept = [path for path in found if "__pycache__" not in path.parts and path != Path(__file__)]
    return [root / "README.md", *sorted(kept)]


def text_of(path: Path) -> str:
    """Its text; nothing for a file that has none."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def test_citations_resolve() -> None:
    wrong = [f"{path.relative_to(ROOT)}:{fault}" for path in files(ROOT) for fault in faults(text_of(path), ROOT)]
    assert not wrong, "\n".join(["", *wrong])


PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    wrong = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        if not linked.exists() or (anchor and anchor not in anchors(linked.read_text(encoding="utf-8"))):
            wrong.append(target)
    assert not wrong


@pytest.mark.parametrize("page", sorted((ROOT / "docs/m3").glob("*.md")), ids=lambda page: page.name)
def test_headings_can_be_cited(page: Path) -> None:
    found = headings(page.read_text(encoding="utf-8"))
    assert len(set(found)) == len(found)
    assert [text for text in found if text != HEADING.match(text).group(1)] == []  # type: ignore[union-attr]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository of two pages."""
    (tmp_path / "docs/m3").mkdir(parents=True)
    (tmp_path / "docs/m3/tea.md").write_text("# Tea\n\n## Green tea\n\n### Water and time\n\n```\n## code\n```\n")
    (tmp_path / "docs/architecture.md").write_text("# House\n\n## 1. Rooms\n\n## 2. Doors\n")
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "nothing is cited",
        "all of it (docs/m3/tea.md).",
        '"""Leaves (docs/m3/tea.md, green tea)."""',
        '"""Leaves: docs/m3/tea.md, Green tea."""',
        "(docs/m3/tea.md, water and time; docs/m3/tea.md, green tea), and more",
        "# docs/m3/tea.md, water and time",
        "`docs/m3/tea.md, green tea` is an example",
        "docs/m3/tea.md, green tea: sixty degrees",
        "(docs/architecture.md §1).",
        '(docs/architecture.md §1, §2; docs/architecture.md §2, "Handles")',
        "[architecture.md](architecture.md) §2; this page",
        "docs/architecture.md, without a section",
        "https://example.org/docs/elsewhere.md",
    ],
)
def test_good_citations(small: Path, line: str) -> None:
    assert list(faults(line, small)) == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("(docs/coffee.md)", "no page docs/coffee.md"),
        ("(docs/m3/coffee.md, beans)", "no page docs/m3/coffee.md"),
        ("(docs/m3/tea.md, black tea)", "no heading 'black tea'"),
        ("(docs/m3/tea.md, green)", "no heading 'green'"),
        ("(docs/m3/tea.md, code)", "no heading 'code'"),
        ("docs/m3/tea.md, green tea and more", "no heading 'green tea and more'"),
        ("(docs/m3/tea.md,", "no heading behind docs/m3/tea.md,"),
        ("(docs/architecture.md §3)", "has no §3"),
        ("(docs/architecture.md §2, §10)", "has no §10"),
        ("(architecture §1)", "a § that is no section"),
        ("as before (§2)", "a § that is no section"),
        ("(docs/m3/tea.md §1)", "a § that is no section"),
        ("(reference/tea.md)", "not in the repository"),
    ],
)
def test_bad_citations(small: Path, line: str, fault: str) -> None:
    (found,) = faults(f"first\n{line}\n", small)
    assert fault in found
    assert found.startswith("2: ")
