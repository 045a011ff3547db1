"""Full-catalogue evaluation: ranking metrics with intervals, slices, beyond-accuracy figures, paired comparison."""
