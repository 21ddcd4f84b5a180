"""Augmented and masked versions of samples: random ops are split into draw and apply."""
