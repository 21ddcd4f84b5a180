"""Networks that turn views into features. B batch, C channels, D/H/W space, N tokens."""
