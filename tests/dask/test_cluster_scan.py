"""The command ``scan --cluster``: it counts as ``scan`` does, and every failure is one sentence."""

import json
import socket
import sys

import pytest
from support import content

from iobuf_nb.__main__ import main


def result_of(arguments, capsys):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.compiled
def test_a_cluster_of_processes_counts_the_same(client, file, capsys):
    paths = [str(file(content(300_000 + n, n), f"data{n}")) for n in range(3)]
    there = ["scan", "--cluster", client.scheduler.address, "--tier", "small", "--workers", "2", *paths]
    found, expected = result_of(there, capsys), result_of(["scan", *paths], capsys)
    for fact in ("source", "bytes", "lines", "entropy", "histogram"):
        assert found[fact] == expected[fact]


@pytest.mark.parametrize(
    "address, arguments, status, message",
    [
        ("tcp://127.0.0.1:1", ["/dev/null"], 1, "tcp://127.0.0.1:1: no Dask scheduler answered within 0.2 s"),
        (
            "127.0.0.1",
            ["/dev/null"],
            2,
            "--cluster must be an address that Dask can use, such as tcp://host:8786: ",
        ),
        ("tls://127.0.0.1:1", ["/dev/null"], 2, "--cluster must be an address that Dask can use, .* TLS expects"),
        ("tcp://127.0.0.1:1", [], 2, "--cluster needs files that workers can open: give their paths, not -"),
        ("tcp://127.0.0.1:1", ["-"], 2, "--cluster needs files that workers can open"),
    ],
)
def test_failures_are_one_sentence(address, arguments, status, message, capsys, monkeypatch):
    monkeypatch.setattr("iobuf_nb._dask.scan._CONNECT_S", 0.2)
    assert main(["scan", "--cluster", address, *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("python -m iobuf_nb: ") and message.partition(".* ")[0] in captured.err
    assert message.rpartition(".* ")[2] in captured.err


def test_a_server_that_is_silent(capsys, monkeypatch):
    monkeypatch.setattr("iobuf_nb._dask.scan._CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert main(["scan", "--cluster", address, "/dev/null"]) == 1
    assert capsys.readouterr().err == f"python -m iobuf_nb: {address}: no Dask scheduler answered within 0.2 s\n"


def test_a_worker_is_no_scheduler(local_client, capsys):
    worker = next(iter(local_client.nthreads()))
    assert main(["scan", "--cluster", worker, "/dev/null"]) == 1
    assert capsys.readouterr().err == f"python -m iobuf_nb: {worker}: no Dask scheduler answered within 10 s\n"


def test_a_file_that_is_missing(local_client, capsys):
    assert main(["scan", "--cluster", local_client.scheduler.address, "/nonexistent"]) == 1
    assert capsys.readouterr().err.startswith("python -m iobuf_nb: /nonexistent: No such file or directory")


def test_without_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    for name in [name for name in sys.modules if name.startswith("iobuf_nb._dask")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["scan", "--cluster", "tcp://127.0.0.1:1", "/dev/null"]) == 2
    told = "python -m iobuf_nb: iobuf_nb.dask needs distributed: pip install 'iobuf-nb[dask]'\n"
    assert capsys.readouterr() == ("", told)
