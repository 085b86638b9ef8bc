"""Pooled beliefs (`method=dps_pooled`): what clusters of prompts tell of those never tried."""

from dps_ray.selection.clusters import Clusters, number_within
from dps_ray.selection.pooled.store import PooledStore

__all__ = ["Clusters", "PooledStore", "number_within"]
