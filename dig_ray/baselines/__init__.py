"""Baselines behind the same evaluation as the policy: popularity, repeat-last, item-KNN and SASRec."""
