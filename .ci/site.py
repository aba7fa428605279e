"""What the site needs beyond docs/: the pages of the root, links to files of the source, and a menu that lists every page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
TAKEN = ("README.md", "README.ru.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md")
ALL_PAGES = "all-pages.md"
"""Name of docs/index.md in the site."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Pages that the menu does not name stand under "More"."""
    named = set(re.findall(r"[\w./-]+\.md", str(config.nav))) | {"index.md"}
    pages = sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))
    if more := [page for page in pages if page not in named]:
        config.nav.append({"More": more})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Pages of the root become pages of the site. The README is its start, so the list of pages has another address."""
    listed = files.get_file_from_path("index.md")
    if listed is not None:
        files.remove(listed)
        content = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
        files.append(File.generated(config, ALL_PAGES, content=content))
    for name in TAKEN:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_post_page(output: str, page: Any, config: Any) -> str:
    """A wider column: tables that commands print have up to 140 characters."""
    return output.replace("</head>", "<style>.md-grid{max-width:88rem}</style></head>", 1)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links out of docs/ lead to the pages taken in; those to source files become their names."""
    here = page.file.src_uri
    base = ROOT / here if here in TAKEN else ROOT / "docs" / ("index.md" if here == ALL_PAGES else here)

    def link(match: re.Match[str]) -> str:
        image, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if ":" in target:
            return match[0]
        place = (base.parent / target).resolve()
        for root in (ROOT / "docs", ROOT):
            if place.is_relative_to(root):
                inside = str(place.relative_to(root))
                if root == ROOT / "docs" and inside == "index.md":
                    inside = ALL_PAGES
                if files.get_file_from_path(inside):
                    up = "../" * here.count("/")
                    return f"{image}[{text}]({up}{inside}{anchor})"
        return f"`{text.strip('`')}`"

    fenced = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in fenced)
