"""Other libraries' faces of a parallel map, run by a pool. Nothing of distmap imports this folder but by name.

Each module here imports the library that it is for, which must be installed already.
"""
