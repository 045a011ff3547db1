"""How a room runs on Ray Train: its workers begin, fail, go on and report.

It imports no room, and nothing here says what a model learns.
"""
