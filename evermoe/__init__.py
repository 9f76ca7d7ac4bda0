"""The ground floor: the version, the errors and the settings. Imports none of the rooms above it."""

__version__ = "0.1.0"
