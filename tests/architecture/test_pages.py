"""The pages' own files: no HTML from strings, nothing from other hosts, small, one way in."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "services" / "api" / "pages"
VENDOR = FOLDER / "vendor"
MAX_LINES = 250
HTML_FROM_STRINGS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|dangerouslySetInnerHTML|document\.write|srcdoc|setHTML"
    r"|parseFromString|createContextualFragment|\beval\(|new Function"
)
OTHER_HOST = re.compile(r"""(?:https?:)?//[a-z0-9-]+\.[a-z]""")
IMPORT = re.compile(
    r"""^(?:import|export)[^"']*?from\s+["']([^"']+)["']""", re.MULTILINE | re.DOTALL
)
ONLY_IMPORTER = {
    "preact.js": "lib/html.js",
    "preact-hooks.js": "lib/html.js",
    "htm.js": "lib/html.js",
    "uplot.js": "components/chart.js",
}


def own_files(*suffixes: str) -> dict[str, str]:
    return {
        path.relative_to(FOLDER).as_posix(): path.read_text("utf-8")
        for path in sorted(FOLDER.rglob("*"))
        if path.suffix in suffixes and VENDOR not in path.parents
    }


def imports(name: str, text: str) -> list[str]:
    """The modules that a module imports, as paths below the folder."""
    found = [FOLDER / Path(name).parent / target for target in IMPORT.findall(text)]
    return [path.resolve().relative_to(FOLDER).as_posix() for path in found]


def test_no_html_is_made_from_strings() -> None:
    scripts = own_files(".js", ".html")
    assert len(scripts) > 30
    assert [name for name, text in scripts.items() if HTML_FROM_STRINGS.search(text)] == []


def test_nothing_comes_from_another_host() -> None:
    known = {"http://www.w3.org/2000/svg"}
    found = {
        (name, line.strip())
        for name, text in own_files(".js", ".css", ".html", ".svg").items()
        for line in text.splitlines()
        if OTHER_HOST.search(line) and not any(address in line for address in known)
    }
    assert found == set()


def test_the_shell_has_nothing_inline() -> None:
    shell = (FOLDER / "index.html").read_text("utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", shell) == []


def test_modules_are_small_and_say_what_they_are() -> None:
    modules = own_files(".js", ".css")
    assert [name for name, text in modules.items() if text.count("\n") > MAX_LINES] == []
    assert [name for name, text in modules.items() if not text.startswith(("// ", "/* "))] == []


def test_every_module_is_reached_from_the_first_and_every_import_is_there() -> None:
    modules = own_files(".js")
    reached, waiting = set(), ["main.js"]
    while waiting:
        name = waiting.pop()
        if name in reached or name.startswith("vendor/"):
            continue
        reached.add(name)
        waiting += imports(name, modules[name])
    assert reached == set(modules)


def test_libraries_are_imported_in_one_place() -> None:
    found = {
        (Path(target).name, name)
        for name, text in own_files(".js").items()
        for target in imports(name, text)
        if target.startswith("vendor/")
    }
    assert found == set(ONLY_IMPORTER.items())


def test_the_vendored_files_are_those_of_the_manifest() -> None:
    packages = json.loads((VENDOR / "manifest.json").read_text("utf-8"))["packages"]
    expected = {entry["file"]: entry["sha256"] for one in packages for entry in one["files"]}
    present = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.iterdir()
        if path.name != "manifest.json"
    }
    assert present == expected
