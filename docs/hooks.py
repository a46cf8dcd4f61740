"""Adds the documents and pictures outside of docs/ to the site, and mends the links to them."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PATTERNS = ("weights/*.md", "benchmarks/results/*.png", "CONTRIBUTING.md", "CHANGELOG.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files at the path that they have in the repository."""
    for path in (path for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))):
        uri = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Remove docs/ from links: it is the top of the site and not a folder in it."""
    if (ROOT / "docs" / page.file.src_uri).is_file():
        return markdown.replace("](../", "](") if "/" not in page.file.src_uri else markdown
    return re.sub(r"\]\(((?:\.\./)?)docs/", r"](\1", markdown)
