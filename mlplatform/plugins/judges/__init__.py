"""Judges of a version that is being rolled out, one a file."""
