"""Building blocks shared by at least three objectives."""
