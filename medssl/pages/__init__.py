"""One self-contained HTML page per run: no script, no font, no picture from elsewhere."""
