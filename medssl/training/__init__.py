"""The loop: it knows the Task protocol, no objective and no head."""
