"""System calls of either face."""

import pytest
from channels import call_on


@pytest.fixture
def call(face):
    return lambda name, *arguments: call_on(face.name, name, *arguments)
