"""Text as bytes: words, searches, numbers and tables of keys, for kernels and Python."""
