"""Vectors to Semantic IDs: quantizers, collision suffix, the catalogue of SIDs, the prefix table and a quality report."""
