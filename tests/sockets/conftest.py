"""Functions of either face, and sockets of each kind."""

import pytest
from both import KINDS, call_on, two


@pytest.fixture
def call(face):
    return lambda name, *arguments: call_on(face.name, name, *arguments)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def pair(kind, tmp_path):
    with two(kind, tmp_path) as sockets:
        yield sockets


@pytest.fixture
def udp(tmp_path):
    with two("inet", tmp_path) as sockets:
        yield sockets
