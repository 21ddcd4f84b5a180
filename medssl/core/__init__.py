"""Shared words: geometry, sample, features, tasks, config, errors. Imports no other room."""
