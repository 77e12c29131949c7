"""Machines: an object each, and a model of it made of deques, sets and dicts.

The rules of a machine call methods, good and bad, from either face, and compare the answer or the error with the
model's; after each step all that can be seen of the object is compared.
"""
