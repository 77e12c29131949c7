"""Streams: files, pipes and sockets through kernels, piece by piece."""
