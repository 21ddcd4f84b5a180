"""What lies on disk: scan, catalog, quarantine, split, identity, phantom. No torch here."""
