"""What is built of many runs: comparisons of variants, and sweeps over any settings."""
