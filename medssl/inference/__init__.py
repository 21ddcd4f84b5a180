"""From a prepared volume to files in the user's grid: sliding window, writers, preview."""
