"""ONNX files of models with random weights, made as MMDeploy exports trained ones: the same inputs and outputs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

DETECTOR, SIMCC, HEATMAP = (
    "rtmdet_nano_320-8xb32_coco-person",
    "rtmpose-t_8xb256-420e_coco-256x192",
    "td-hm_mobilenetv2_8xb64-210e_coco-256x192",
)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def export(model: nn.Module, path: Path, outputs: Sequence[str], size: tuple[int, int], *, batch: int = 0) -> Path:
    """Write ``model``, which takes pictures [N, 3, height, width], to ``path``; N is free, or fixed at ``batch``."""
    names = ("input", *outputs)
    # The step that is left out adds functions of one's own, of which there are none, and needs the package onnx.
    left_out = "torch.onnx._internal.torchscript_exporter.onnx_proto_utils._add_onnxscript_fn"
    with mock.patch(left_out, lambda content, functions: content), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that MMDeploy uses is the old one
        torch.onnx.export(
            model.eval(),
            (torch.zeros(batch or 1, 3, *size),),
            path,
            dynamo=False,
            input_names=["input"],
            output_names=list(outputs),
            dynamic_axes={} if batch else {name: {0: "batch"} for name in names},
        )
    return path


def lively(name: str, seed: int = 0) -> Any:
    """A model of mmpose or mmdet whose random weights tell pictures apart, as trained ones do: its norms have seen
    some, and its last layers are not near zero."""
    from stages.pose import mmpose_models as models

    model: Any = models.build(models.read_config(name), weights="none", flag="", seed=seed, device="cpu")
    is_detector = name == DETECTOR
    head, size = (model.bbox_head, (320, 320)) if is_detector else (model.head, (256, 192))
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand((6, 3, size[0] // 16, size[1] // 16), generator=generator)
    pictures = nn.functional.interpolate(small, size, mode="bicubic") * 4 - 2
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = 1.0
    last = [layer.weight for layer in head.rtm_cls] if is_detector else [p for p in head.parameters() if p.dim() == 4]
    with torch.no_grad():
        for weight in last:
            weight.normal_(0, 0.05 if is_detector else 1, generator=generator)
        for layer in head.rtm_reg if is_detector else ():
            layer.weight.normal_(0, 0.004, generator=generator)
            layer.bias.fill_(2)  # boxes around their points: four strides wide, about
        model.train()
        head.forward(model.extract_feat(pictures))
    return model.eval()


class Keypoints(nn.Module):
    """A keypoint model without what follows its outputs; ``normalised`` inside the graph or before it."""

    def __init__(self, model: Any, *, normalise: bool = False) -> None:
        super().__init__()
        self.model, self.normalise = model, normalise

    def forward(self, pictures: Tensor) -> Any:
        if self.normalise:
            mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
            pictures = (pictures.flip(1) - mean) / std
        return self.model.head.forward(self.model.extract_feat(pictures))


class Detections(nn.Module):
    """RTMDet with suppression inside: boxes with scores [N, 100, 5] in pixels of the input, and labels [N, 100]."""

    def __init__(self, model: Any, *, iou: float, score: float = 0.05) -> None:
        super().__init__()
        self.model, self.iou, self.score = model, iou, score

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        head, count = self.model.bbox_head, pictures.shape[0]
        classes, distances = head(self.model.extract_feat(pictures))
        centres = torch.cat(head.prior_generator.grid_priors([level.shape[2:] for level in classes], device="cpu"))
        scores = torch.cat([level.flatten(2) for level in classes], 2).sigmoid()
        left, top, right, bottom = torch.cat([level.flatten(2) for level in distances], 2).unbind(1)
        x, y = centres.T
        # Cut off at the edge as mmdet does; MMDeploy does it later, so that it suppresses a little less there.
        boxes = torch.stack((x - left, y - top, x + right, y + bottom), -1).clamp(0, pictures.shape[-1])
        picture, _, box = _Suppression.apply(boxes, scores, self.iou, self.score).unbind(1)
        kept = torch.zeros_like(scores[:, 0]).index_put((picture, box), torch.ones_like(box).to(scores))
        best, order = (scores[:, 0] * kept).topk(100)
        found = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        return torch.cat((found, best[..., None]), -1), torch.zeros_like(order).reshape(count, -1)


class _Suppression(torch.autograd.Function):
    """ONNX's NonMaxSuppression: rows of picture, class and box, int64 [K, 3]."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, iou: float, score: float) -> Tensor:
        return torch.zeros(1, 3, dtype=torch.int64)  # only its place in the graph is asked for

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, iou: float, score: float) -> Any:
        limits = [g.op("Constant", value_t=torch.tensor([value])) for value in (1000, iou, score)]
        return g.op("NonMaxSuppression", boxes, scores, *limits)


class Nobody(nn.Module):
    """A detector that finds nobody."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        nothing = pictures.flatten(1)[:, None, :5] * 0
        return nothing, nothing[..., 0].long()


class Blobs(nn.Module):
    """A small model of heatmaps: 17 mixtures of a picture's colours, on a grid of a quarter of its size."""

    def __init__(self, *, joints: int = 17, fault: str = "") -> None:
        super().__init__()
        self.mix, self.fault = nn.Conv2d(3, joints, 5, stride=4, padding=2, bias=False), fault
        nn.init.normal_(self.mix.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, pictures: Tensor) -> Tensor:
        maps = self.mix(pictures)
        if self.fault == "mixes":
            maps = maps - maps.mean(0, keepdim=True) / 2
        if self.fault == "fails":
            maps = maps.reshape(1, *maps.shape[1:])
        return maps


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random picture uint8 [height, width, 3]."""
    from PIL import Image

    small = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
