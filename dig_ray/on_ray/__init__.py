"""Ray itself: the session of a run, training on Ray Train (workers that begin, fail, go on and report), progress, metrics and dashboards.

It imports no room, and nothing here says what a model learns.
"""
