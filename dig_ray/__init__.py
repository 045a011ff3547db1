"""dig_ray: generative recommendation with deep interests, on Ray."""

from dig_ray.torchvision_ops import install as _install

__version__ = "0.1.0"

_install()  # for a checkout on PYTHONPATH, where no .pth file does it
