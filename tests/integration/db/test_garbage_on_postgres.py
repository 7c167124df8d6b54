"""The tests of tests/unit/jobs/test_garbage.py, on PostgreSQL."""

from __future__ import annotations

import pytest

from tests.unit.jobs.test_garbage import *  # noqa: F403 - collected here with this folder's database

pytestmark = pytest.mark.integration
