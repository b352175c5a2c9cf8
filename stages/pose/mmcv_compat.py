"""mmpose and mmdet on mmcv-lite, without compiled operators of mmcv and without xtcocotools.

mmcv's full build compiles its operators against one version of torch and has no wheels for current ones. mmcv-lite is
the same package without ``mmcv._ext``, where the operators are; but mmdet imports ``mmcv.ops`` throughout, if only to
have the names. Of the operators, the detectors and top-down estimators here call non-maximum suppression alone, and
torchvision has that. mmpose reads COCO annotations with xtcocotools, a fork of pycocotools with the same interface,
while it defines its data sets; it is not called when poses are estimated.

``install()`` puts stand-ins for both in place; call it before the first import of mmcv, mmdet or mmpose.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from store.errors import MissingError

if TYPE_CHECKING:
    import torch


# Deprecations of torch and setuptools in these packages, at every frame: the versions that suit them are pinned.
warnings.filterwarnings("ignore", module=r"(mmcv|mmdet|mmengine|mmpose)\.")
warnings.filterwarnings("ignore", message="torch.meshgrid")
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")


def install() -> None:
    """Make ``import mmpose.models`` and ``import mmdet.models`` work. Does nothing the second time.

    Raises ``MissingError`` where mmpose, mmdet, mmcv or mmengine is not installed.
    """
    require_packages()
    importlib.import_module("mmcv")
    if "mmcv._ext" not in sys.modules and importlib.util.find_spec("mmcv._ext") is None:
        sys.modules["mmcv._ext"] = _Operators("mmcv._ext")
    if "xtcocotools" not in sys.modules and importlib.util.find_spec("xtcocotools") is None:
        for name in ("", ".coco", ".cocoeval", ".mask"):
            sys.modules[f"xtcocotools{name}"] = importlib.import_module(f"pycocotools{name}")


def require_packages() -> None:
    """Raise ``MissingError`` unless mmpose and its stack are installed. Imports none of them."""
    absent = [name for name in ("mmpose", "mmdet", "mmcv", "mmengine") if importlib.util.find_spec(name) is None]
    if absent:
        raise MissingError(
            f"the pose backend mmpose needs {', '.join(absent)}; install with make setup, or with "
            "pip install --no-deps -r requirements.lock",
            kind="missing-package",
        )


class _Operators(ModuleType):
    """Stands in for ``mmcv._ext``: has every operator by name, computes non-maximum suppression, refuses the others."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, loader=None)  # mmcv asks the import system whether the module exists

    def __getattr__(self, operator: str) -> Any:
        if operator.startswith("__"):
            raise AttributeError(operator)

        def refuse(*args: object, **kwargs: object) -> NoReturn:
            raise MissingError(
                f"this model calls mmcv's compiled operator {operator}, which mmcv-lite does not have; choose a model "
                "without it (RTMDet, RTMPose, HRNet), or install the full mmcv",
                kind="missing-package",
            )

        return refuse

    @staticmethod
    def nms(boxes: torch.Tensor, scores: torch.Tensor, *, iou_threshold: float, offset: int) -> torch.Tensor:
        """Indices of the boxes kept, best score first. ``offset`` 1 counts the last pixel of a box as inside it."""
        from torchvision.ops import nms

        return nms(boxes + boxes.new_tensor((0, 0, offset, offset)), scores, iou_threshold)
