"""A hook of MkDocs that has links to files of the repository work on the site.

A page links to a file as it does in the repository, such as `../cluster/ray-cluster.yaml`. On the site that file is
served as text under `repository/`. Pages made of files at the repository's root, such as README.md, are known by the
page's name.
"""

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links of a page that lead out of docs/."""
    made_of = {made: source for source, made in PAGES.items()}.get(page.file.src_uri)
    folder = "" if made_of else posixpath.dirname(f"docs/{page.file.src_uri}")

    def rewritten(link: re.Match[str]) -> str:
        before, target, anchor, after = link[1], link[2], link[3] or "", link[4]
        if re.match(r"[a-z]+:", target):
            return link[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in PAGES:
            return before + _from(page, PAGES[path]) + anchor + after
        if path.startswith("docs/"):
            return before + _from(page, path.removeprefix("docs/")) + anchor + after
        return before + _from(page, _served(path, page, config, files)) + after

    return _outside_fences(markdown, lambda text: LINK.sub(rewritten, text))


def _outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    """The text with the parts outside fenced code changed."""
    parts, at = [], 0
    for fence in FENCED.finditer(markdown):
        parts += [change(markdown[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, change(markdown[at:])])


def _from(page: Page, uri: str) -> str:
    return posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")


def _served(path: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Where the site serves a file of the repository as text; a folder as the list of its files."""
    source = ROOT / path
    if source.is_dir():
        content = "\n".join(sorted(str(each.relative_to(ROOT)) for each in source.iterdir())) + "\n"
    elif source.is_file():
        content = source.read_text()
    else:
        raise PluginError(
            f"{page.file.src_uri} links to {path}, which the repository does not have"
        )
    uri = f"repository/{path}.txt"
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, content=content))
    return uri
