"""The CUDA attention layout against SDPA, by the real Triton kernel in its interpreter.

xformers and the Triton that its kernel needs are installed without their own needs into a folder
beside the environment's packages, once; a machine where that cannot be done skips, loudly.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("xformers==0.0.35", "triton==3.6.0", "numpy==2.2.6")
"""NumPy 2.3 and newer break the interpreter of this Triton."""
FOLDER = Path(sys.prefix) / "interpreted-xformers"
ROOT = Path(__file__).parents[2]
INSTALL_SECONDS, RUN_SECONDS = 480, 300


@pytest.fixture(scope="module")
def packages() -> Path:
    """The folder with the packages, installed if it is not there yet."""
    done = FOLDER / "installed"
    if done.exists():
        return FOLDER
    if "CI" not in os.environ:
        pytest.skip(f"needs 500 MB of {', '.join(PACKAGES)}; with CI=true they are installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
    try:
        subprocess.run(
            [*command, "--target", str(FOLDER), *PACKAGES], check=True, timeout=INSTALL_SECONDS
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"THE CUDA LAYOUT IS NOT CHECKED: {error}")
    done.touch()
    return FOLDER


@pytest.mark.timeout(INSTALL_SECONDS + RUN_SECONDS + 60)
def test_the_kernel_reads_the_slots_as_sdpa_does(packages: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{packages}{os.pathsep}{ROOT}",
        "TRITON_INTERPRET": "1",
        "XFORMERS_ENABLE_TRITON": "1",
        "OMP_NUM_THREADS": "1",
    }
    found = subprocess.run(
        [sys.executable, "-m", "tests.parity.interpreted_xformers"],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr[-4000:]
    assert len(found.stdout.splitlines()) == 2 * 5
