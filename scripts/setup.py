"""Makes `.venv`: torch first (the build that fits this machine), then the project with one extra.

    python3.11 scripts/setup.py embedded|dev

Standard library only: it runs before anything is installed. A torch wheel offered by pip's own
`find-links` comes first; without an NVIDIA driver PyTorch's CPU index follows, with one the default
index, whose build brings CUDA. `TORCH_INDEX_URL` overrides the choice of index.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CONSTRAINTS = ROOT / "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
EXTRAS = ("embedded", "dev")


def main() -> None:
    """Install the extra named on the command line; exit with one sentence when that fails."""
    if sys.argv[1:] not in [[extra] for extra in EXTRAS]:
        sys.exit(f"usage: setup.py {'|'.join(EXTRAS)}")
    extra = sys.argv[1]
    started = time.monotonic()
    _make_environment()
    has_gpu = _has_nvidia_driver()
    _install_torch(has_gpu=has_gpu)
    extras = f"{extra},cuda" if has_gpu else extra
    _say(f"Installing Ryan-GPT with [{extras}] ...")
    _pip("install", "-c", str(CONSTRAINTS), "-e", f"{ROOT}[{extras}]")
    for stamp in ("embedded", "dev") if extra == "dev" else ("embedded",):
        (VENV / f".installed-{stamp}").touch()
    _say(f"Environment ready in {time.monotonic() - started:.0f} s.")


def _say(text: str) -> None:
    print(f"setup: {text}", flush=True)  # noqa: T201 - this is the terminal


def _make_environment() -> None:
    if PYTHON.exists() and _output(str(PYTHON), "-m", "pip", "--version"):
        return
    _say(f"Making .venv with Python {sys.version.split()[0]} ...")
    shutil.rmtree(VENV, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False)
    if made.returncode != 0:
        sys.exit("setup: the venv module failed; on Debian or Ubuntu install python3-venv.")


def _has_nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or bool(_output("nvidia-smi", "-L"))


def _install_torch(*, has_gpu: bool) -> None:
    wanted = _pinned_torch()
    if _installed_torch().partition("+")[0] == wanted.removeprefix("torch=="):
        _say(f"torch {_installed_torch()} is there already.")
        return
    index = os.environ.get("TORCH_INDEX_URL")
    offered = _torch_from_find_links(wanted)
    if index:
        _say(f"Installing {wanted} from TORCH_INDEX_URL ({index}) ...")
        _pip("install", "--index-url", index, wanted)
    elif offered and ("+cpu" in offered) != has_gpu:
        _say(f"Installing torch {offered} from pip's find-links ...")
        _pip("install", "-c", str(CONSTRAINTS), f"torch=={offered}")
    elif has_gpu:
        _say(f"Installing {wanted} with CUDA: this machine has an NVIDIA driver ...")
        _pip("install", "-c", str(CONSTRAINTS), wanted)
    else:
        _say(f"Installing {wanted} for CPU: this machine has no NVIDIA driver ...")
        _pip("install", "--index-url", CPU_INDEX, wanted)


def _pinned_torch() -> str:
    lines = CONSTRAINTS.read_text("utf-8").splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def _installed_torch() -> str:
    code = "import importlib.metadata as m; print(m.version('torch'))"
    return _output(str(PYTHON), "-c", code)


def _torch_from_find_links(wanted: str) -> str:
    """The version that a wheel in pip's find-links has, or nothing."""
    command = ("install", "--dry-run", "--quiet", "--ignore-installed", "--no-index", "--no-deps")
    report = _output(str(PYTHON), "-m", "pip", *command, "--report", "-", wanted)
    if not report:
        return ""
    version: str = json.loads(report)["install"][0]["metadata"]["version"]
    return version


def _output(*command: str) -> str:
    """Standard output of a command; nothing when it fails or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _pip(*arguments: str) -> None:
    command = [str(PYTHON), "-m", "pip", *arguments[:1], "-qq", *arguments[1:]]
    quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    if subprocess.run(command, env=quiet, stdin=subprocess.DEVNULL, check=False).returncode != 0:
        sys.exit("setup: pip failed; its words are above. Run the same command again to go on.")


if __name__ == "__main__":
    main()
