"""Semantic IDs to the next Semantic ID: vocabulary, tasks, backbones and constrained decoding."""
