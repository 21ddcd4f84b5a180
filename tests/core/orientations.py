"""All 48 ways to store a volume: axis permutations and flips, optionally oblique."""

import itertools

import numpy as np
from scipy.spatial.transform import Rotation

SHAPE_DHW = (5, 7, 9)
SPACING_WHD = np.array([0.7, 1.3, 2.5])
CASES = list(
    itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
)


def affine_of(case, tilt_deg=(0.0, 0.0, 0.0)):
    """Voxel (W, H, D) -> RAS mm of one of the 48 orientations, rotated by Euler angles."""
    order, signs = case
    axes = np.zeros((3, 3))
    axes[list(order), range(3)] = signs
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", tilt_deg, degrees=True).as_matrix() @ axes
    affine[:3, :3] *= SPACING_WHD
    affine[:3, 3] = [-31.0, 12.5, 400.25]
    return affine


def volume(shape=SHAPE_DHW):
    """Every voxel has its own value."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
