"""Command line: parse, call one stage, map errors to exit codes."""
