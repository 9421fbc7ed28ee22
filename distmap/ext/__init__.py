"""Adapters of other libraries' engines, and their faces of a parallel map. Nothing of distmap imports this but by name.

Each module here imports the library that it is for, which must be installed already.
"""
