"""What makes this library at home on a Dask cluster; `iobuf_nb.dask` is its public face."""

try:
    import distributed  # noqa: F401 (asked for here, so that every way in says how to get it)
except ImportError:
    raise ImportError("iobuf_nb.dask needs distributed: pip install 'iobuf-nb[dask]'") from None
