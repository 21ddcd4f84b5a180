"""Runnable orders of stages, and the pages that are generated."""
