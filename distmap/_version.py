"""The version: the one place that holds it; read by the build and by whoever must tell it. Imports nothing."""

__version__ = "0.1.0"
