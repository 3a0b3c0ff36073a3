"""Frechet distance between Gaussians fitted to features (FID, FVD)."""

from septet.kernels.frechet.reference import frechet_distance, frechet_from_features, gaussian_moments

__all__ = ["frechet_distance", "frechet_from_features", "gaussian_moments"]
