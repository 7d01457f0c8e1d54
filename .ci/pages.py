"""What the site of the documentation adds to docs/: README as its first page, and the order of the pages."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

READMES = {"index.md": "README.md", "es.md": "README.es.md"}
SECTIONS = {
    "Training": ["data", "own_text", "training", "budget"],
    "Evaluation": ["evaluation", "audit", "compare", "original_leak"],
    "Large": ["speed", "sweeps", "engines", "clusters", "fsdp"],
    "Using a model": ["using", "looking_inside", "demo", "export"],
    "Extending": ["extending"],
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the READMEs, whose links begin at the repository's root; name the pages in order, the rest at the end."""
    with_folder = {source: f"]({page})" for page, source in READMES.items()}
    for page, source in READMES.items():
        text = (Path(config.config_file_path).parents[1] / source).read_text(encoding="utf-8").replace("](docs/", "](")
        for name, link in with_folder.items():
            text = text.replace(f"]({name})", link)
        files.append(File.generated(config, page, content=text))
    left = {file.src_path.removesuffix(".md") for file in files.documentation_pages()} - {"index", "es"}
    nav: list[object] = [{"miniLLM": "index.md"}, {"En español": "es.md"}]
    for section, pages in SECTIONS.items():
        if here := [f"{page}.md" for page in pages if page in left]:
            nav.append({section: here})
        left -= set(pages)
    config.nav = [*nav, *(f"{page}.md" for page in sorted(left))]
    return files
