"""The pictures of discovery/gallery as files of the site, under the links that work without it."""

from pathlib import Path

from mkdocs.structure.files import File, Files

GALLERY = Path(__file__).parents[1] / "discovery" / "gallery"
LINK = "../../discovery/gallery/"  # as a page says it, so that it also works in a plain viewer


def on_files(files, config) -> Files:
    """Add the pictures."""
    for path in sorted(GALLERY.glob("*.png")):
        files.append(File.generated(config, f"gallery/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files) -> str:
    """Let pages show them from there."""
    return markdown.replace(LINK, "gallery/")
