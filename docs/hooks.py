"""What MkDocs does besides reading docs/: pages from other folders of the repository, and the help of every command."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "pretrained/nano/README.md": "nano/index.md",
    "pretrained/nano/TRAINING.md": "nano/training.md",
    "examples/listening/README.md": "listening/index.md",
}
"""File of the repository -> page of the site. Files of docs/ keep their names."""
DOWNLOADS = {
    "LICENSE": "LICENSE.txt",
    "examples/listening/*.ogg": "listening/",
    "examples/*.py": "examples/",
    "examples/*.ipynb": "examples/",
    "pretrained/nano/*.png": "nano/",
    "recipes/*.yaml": "recipes/",
    "recipes/corpus/*.yaml": "recipes/corpus/",
}
"""Files of the repository -> files of the site; a target that ends in / is a folder."""
HELP_MARK = "<!-- the help of every command -->"
KEYS_MARK = "<!-- the keys of config.json -->"
HELP_COLUMNS = 80
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
SOUND = re.compile(r"\[[^\]]*\]\(([^)\s]+\.ogg)\)")


def site_paths() -> dict[str, str]:
    """Return the path in the site of every file that is not in docs/, by its path in the repository."""
    found = dict(PAGES)
    for pattern, target in DOWNLOADS.items():
        for path in sorted(ROOT.glob(pattern)):
            found[path.relative_to(ROOT).as_posix()] = target + path.name if target.endswith("/") else target
    return found


def site_path(path: str) -> str | None:
    """Return the path in the site of any file of the repository, or None if the site does not have it."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return site_paths().get(path)


def move_links(markdown: str, source: str, target: str) -> str:
    """Rewrite the relative links of a page for the site.

    Args:
        markdown: the text of the page.
        source: its path in the repository, such as "pretrained/nano/README.md".
        target: its path in the site, such as "nano/index.md".

    Returns:
        The text with every link to a file that the site has as a link within the site.
    """

    def moved(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        found = site_path(posixpath.normpath(posixpath.join(posixpath.dirname(source), link)))
        if found is None:
            return match.group()
        return before + posixpath.relpath(found, posixpath.dirname(target) or ".") + after

    return LINK.sub(moved, markdown)


def play_sounds(markdown: str) -> str:
    """Replace links to .ogg files by players."""
    return SOUND.sub(r'<audio controls preload="none" src="\1"></audio>', markdown)


def commands(command: Any, name: str, parent: Any = None) -> Iterator[tuple[str, str]]:
    """Yield the full name and the help text of a command and of all its subcommands."""
    settings = {**command.context_settings, "terminal_width": HELP_COLUMNS}
    context = command.context_class(command, info_name=name, parent=parent, **settings)
    yield context.command_path, command.get_help(context)
    for child in getattr(command, "commands", {}).items():
        yield from commands(child[1], child[0], context)


def command_help() -> str:
    """Return the --help of every command as Markdown, one section each."""
    from typer.main import get_command

    from mimo_codec.cli.main import app

    found = commands(get_command(app), "mimo-codec")
    return "\n\n".join(f"### `{name}`\n\n```text\n{text}\n```" for name, text in found)


def config_keys() -> str:
    """Return the keys of a codec's config.json as Markdown, one table for each section."""
    from mimo_codec import CodecConfig

    sections = {"codec": CodecConfig}
    for f in fields(CodecConfig):
        choices = f.metadata.get("choices", {})
        for kind, row in choices.items():
            sections[f"{f.name}: {kind}"] = row.options
        if not choices:
            sections[f.name] = type(f.default)
    tables = {name: _key_rows(section) for name, section in sections.items()}
    head = "| key | default | meaning |\n|---|---|---|\n"
    return "\n\n".join(f"### {name}\n\n{head}{rows}" for name, rows in tables.items() if rows)


def _key_rows(section: Any) -> str:
    keys = [f for f in fields(section) if "key" in f.metadata] if is_dataclass(section) else []
    return "\n".join(f"| `{f.metadata['key']}` | `{_default(f)}` | {f.metadata['doc']} |" for f in keys)


def _default(f: Field[Any]) -> str:
    """Return the default of a key as config.json writes it; of a key that chooses a kind, the name of the kind."""
    kinds = [kind for kind, row in f.metadata.get("choices", {}).items() if isinstance(f.default, row.options)]
    return json.dumps(kinds[0] if kinds else f.default)


# ---- what MkDocs calls ---------------------------------------------------------------------------------------------


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and downloads that are not in docs/."""
    from mkdocs.structure.files import File

    for path, target in site_paths().items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **others: Any) -> str:
    """Fit the links of a page to the site, and fill in what is generated."""
    source = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
    if source == "examples/listening/README.md":
        markdown = play_sounds(markdown)
    for mark, write in ((HELP_MARK, command_help), (KEYS_MARK, config_keys)):
        if mark in markdown:
            markdown = markdown.replace(mark, write())
    return move_links(markdown, source, page.file.src_uri)
