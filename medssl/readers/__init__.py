"""Bytes to samples, one file per format. No torch."""
