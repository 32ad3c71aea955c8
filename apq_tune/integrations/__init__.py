"""Hosts: each library that runs our work is known to one file here alone."""
