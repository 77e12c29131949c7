"""A model checker: it runs the library's own source, interpreted, and decides who moves next.

All that other threads and time decide is asked of `iobuf_nb._jit.seam`. Read `scheduler` first, then `threads` and
`memories`; `cases` and the files beside it are the programs, `mutants` the bugs that they catch.
"""
