"""Fetch the libraries of the pages from npm, as the manifest beside them names them.

    python scripts/vendor_pages.py            # exactly the versions of the manifest
    python scripts/vendor_pages.py uplot=1.6.33

Needs `npm`. A package whose tarball is not the one the manifest knows is refused, unless its
version was changed on this command line. Bare imports are turned into paths, for browsers resolve
no names.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "services" / "api" / "pages" / "vendor"
MANIFEST = FOLDER / "manifest.json"


def main(arguments: list[str]) -> None:
    """Fetch, adapt and write every file; record what it is."""
    manifest = json.loads(MANIFEST.read_text("utf-8"))
    wanted = dict(argument.split("=", 1) for argument in arguments)
    if unknown := set(wanted) - {package["name"] for package in manifest["packages"]}:
        sys.exit(f"The manifest names no package {', '.join(sorted(unknown))}.")
    for package in manifest["packages"]:
        if package["name"] in wanted:
            package["version"] = wanted[package["name"]]
            package["integrity"] = ""
        vendor(package)
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


def vendor(package: dict[str, Any]) -> None:
    """Write the files of one package, and their digests into its entry."""
    with tempfile.TemporaryDirectory() as folder:
        tarball = download(f"{package['name']}@{package['version']}", Path(folder))
        digest = hashlib.sha512(tarball.read_bytes()).digest()
        integrity = f"sha512-{base64.b64encode(digest).decode()}"
        if package["integrity"] not in {"", integrity}:
            sys.exit(f"{package['name']} {package['version']} is not what it was: {integrity}")
        package["integrity"] = integrity
        with tarfile.open(tarball) as archive:
            for entry in package["files"]:
                content = adapted(read_member(archive, entry["source"]), entry)
                (FOLDER / entry["file"]).write_bytes(content)
                entry["sha256"] = hashlib.sha256(content).hexdigest()


def download(name: str, folder: Path) -> Path:
    """The package's tarball, as the registry has it."""
    subprocess.run(["npm", "pack", "--silent", name], cwd=folder, check=True, capture_output=True)
    (tarball,) = folder.glob("*.tgz")
    return tarball


def read_member(archive: tarfile.TarFile, source: str) -> bytes:
    """One file of the tarball, in memory: nothing is unpacked to a path that it chooses."""
    member = archive.extractfile(f"package/{source}")
    if member is None:
        sys.exit(f"The package has no file {source}.")
    return member.read()


def adapted(content: bytes, entry: dict[str, Any]) -> bytes:
    """The file as a browser takes it: imports are paths, a script exports its global."""
    text = content.decode("utf-8")
    for name, path in entry.get("imports", {}).items():
        if f'from"{name}"' not in text:
            sys.exit(f"{entry['file']} does not import {name!r} any more: look at it.")
        text = text.replace(f'from"{name}"', f'from"{path}"')
    if exported := entry.get("export"):
        text = f"{text.rstrip()}\nexport default {exported};\n"
    lines = [line for line in text.splitlines() if not line.startswith("//# sourceMappingURL=")]
    return ("\n".join(lines) + "\n").encode()


if __name__ == "__main__":
    main(sys.argv[1:])
