"""Ryan-GPT for programs: `from ryangpt import Client`."""

from __future__ import annotations

from ryangpt.client import Client
from ryangpt.transport import ApiError

__all__ = ["ApiError", "Client"]
