"""Lets a CUDA build of torchvision be imported beside a CPU build of torch.

The wheel of torchvision that is commonly offered is linked against CUDA. Beside a CPU torch its compiled
operators do not load, and ``import torchvision`` then ends in "operator torchvision::nms does not exist",
which takes open_clip and the image paths of transformers with it. Declaring the two missing operator schemas
first is enough: everything in Python works, and a call of ``nms`` itself still says that it has no kernel.

``install`` hooks the import of torchvision and does nothing else, so it costs nothing at start-up (this module
imports ``sys`` alone, for the same reason). The package puts a one-line ``.pth`` file beside itself that calls it
in every interpreter of the environment: Ray workers and engine processes import torchvision too, and nobody
there would call us first.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[object] = []  # a Library object withdraws its definitions when it is collected


class _TorchvisionHook:
    """A finder that finds nothing: it only acts on the first sight of ``torchvision``."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        if name == "torchvision":
            sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
            declare_missing_ops()


def install() -> None:
    """Hook the import of torchvision, once per interpreter."""
    hooked = any(type(finder).__name__ == "_TorchvisionHook" for finder in sys.meta_path)
    if "torchvision" not in sys.modules and not hooked:
        sys.meta_path.insert(0, _TorchvisionHook())  # type: ignore[arg-type]


def declare_missing_ops() -> bool:
    """Declare the operators if torchvision is a CUDA build and torch has no CUDA; says whether it did."""
    from importlib.machinery import PathFinder
    from pathlib import Path

    spec = PathFinder.find_spec("torchvision")
    if spec is None or spec.origin is None or _kept:
        return False
    version = Path(spec.origin).with_name("version.py")
    if not version.is_file() or "+cu" not in version.read_text(encoding="utf-8", errors="replace"):
        return False
    import torch

    if torch.version.cuda is not None:
        return False
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _kept.append(library)
    return True
