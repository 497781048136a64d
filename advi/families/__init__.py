"""Variational families: Gaussian mathematics for one vector, one family a file."""

from advi.families.base import Family
from advi.families.full_rank import FullRank
from advi.families.low_rank import LowRank
from advi.families.mean_field import MeanField
from advi.families.point import Point
from advi.families.rows import Amortised, PerRow, RowFamily

__all__ = [
    "Amortised",
    "Family",
    "FullRank",
    "LowRank",
    "MeanField",
    "PerRow",
    "Point",
    "RowFamily",
]
