"""One stack for all tests here, built once; nothing of it is left behind but the images."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.compose.stack import Stack, require_engine, s3_image, say
from tests.support.s3_servers import free_port

UP_BOUND_SECONDS = 60


@pytest.fixture(scope="session")
def new_stack() -> Iterator[Stack]:
    """A stack with its images built and nothing started."""
    require_engine()
    stack = Stack(project=f"ryan-gpt-test-{os.getpid()}", port=free_port(), s3=s3_image())
    say("building the CPU images ...")
    say(f"built in {stack.build():.0f} s")
    yield stack
    stack.down()


@pytest.fixture(scope="session")
def stack(new_stack: Stack) -> Stack:
    """A stack that is up."""
    seconds = new_stack.up()
    say(f"from built images to healthy: {seconds:.1f} s ({seconds / UP_BOUND_SECONDS:.2f} of 60 s)")
    return new_stack
