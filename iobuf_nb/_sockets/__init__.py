"""Sockets, descriptors that wait for events, and timers: what `sockets` and `events` are made of."""
