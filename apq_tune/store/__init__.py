"""Directories of results: atomic writes, digests, locks, free space."""
