"""`python -m shared.base.guard COMMAND ...`: become COMMAND, after asking to die with the parent.

For programs that do not ask themselves, such as a Redis server: the request survives `exec`.
"""

from __future__ import annotations

import os
import sys

from shared.base.process import die_with_parent

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m shared.base.guard COMMAND [ARGUMENT ...]")
    die_with_parent()
    os.execvp(sys.argv[1], sys.argv[1:])
