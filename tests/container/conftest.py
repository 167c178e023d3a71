"""The image, unpacked once, and what runs it."""

from __future__ import annotations

import pytest

from tests.container.runtime import Image, Runtime


@pytest.fixture(scope="session")
def image() -> Image:
    return Image()


@pytest.fixture(scope="session")
def runtime(image: Image) -> Runtime:
    return Runtime(image)
