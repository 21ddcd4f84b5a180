"""Measures of results and of representations. Arrays in, numbers out; reads no files."""
