"""dig_ray: generative recommendation with deep interests, on Ray."""

__version__ = "0.1.0"
