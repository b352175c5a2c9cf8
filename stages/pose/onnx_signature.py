"""Which spec an ONNX model has: told by a file beside it or by its signature, and checked.

``<model>.spec.json`` beside ``<model>.onnx`` holds the fields of ``OnnxModelSpec``. Where there is none, what MMDeploy
writes beside its exports (``deploy.json`` and ``pipeline.json``) serves as well. Models that are known by their
signature need no file: person detectors exported by MMDeploy with suppression inside (outputs ``dets`` and ``labels``;
the values are RTMDet's, or YOLOX's where the path says so), MoveNet ([N, 1, 17, 3] out), SimCC models such as RTMPose
(outputs ``simcc_x`` and ``simcc_y``) and heatmap models such as HRNet (one output [N, 17, h, w]). However it is told,
the spec is checked against the model's real inputs and outputs when it is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.pose.coco import NUM_JOINTS
from stages.pose.onnx_pipeline import read_pipeline
from stages.pose.onnx_spec import DETECTOR_OUTPUTS, KEYPOINT_OUTPUTS, OnnxModelSpec, read_spec
from store.errors import UsageError


@dataclass(frozen=True)
class Node:
    """An input or output as ONNX Runtime describes it; a dimension that is not fixed is a string or None."""

    name: str
    shape: tuple[Any, ...]
    type: str


def spec_of(path: Path, inputs: Sequence[Node], outputs: Sequence[Node]) -> OnnxModelSpec:
    """The spec of a model: from ``<model>.spec.json`` beside it, else from what MMDeploy left there, else by its
    signature; checked against it.

    Raises ``UsageError`` where the file cannot be read, the model is not known, or spec and model disagree.
    """
    beside = path.with_suffix(".spec.json")
    spec = read_spec(beside) if beside.is_file() else read_pipeline(path) or _known(path, inputs, outputs)
    if spec is None:
        raise UsageError(
            f"{path} is not known by its signature ({_words(inputs)} -> {_words(outputs)}); describe it in {beside}: "
            f"name, output ({', '.join(DETECTOR_OUTPUTS + KEYPOINT_OUTPUTS)}), height, width, layout, dtype, colour, "
            f"mean, std"
        )
    wrong = _disagreement(spec, inputs, outputs)
    if wrong:
        raise UsageError(f"{path}: {wrong}; correct {beside} or name another model")
    return spec


def _known(path: Path, inputs: Sequence[Node], outputs: Sequence[Node]) -> OnnxModelSpec | None:
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        return None
    shape, names = list(inputs[0].shape), {output.name for output in outputs}
    if {"dets", "labels"} <= names and shape[1] == 3:
        height, width = (size if isinstance(size, int) else 320 for size in shape[2:])
        if "yolox" in path.as_posix().lower():
            return OnnxModelSpec("yolox", "mmdet-nms", height, width, colour="bgr")
        mean, std = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
        return OnnxModelSpec("rtmdet", "mmdet-nms", height, width, colour="bgr", mean=mean, std=std)
    if shape[3] == 3 and [list(output.shape[1:]) for output in outputs] == [[1, NUM_JOINTS, 3]]:
        dtype = {"tensor(uint8)": "uint8", "tensor(int32)": "int32", "tensor(float)": "float32"}.get(inputs[0].type)
        if dtype and all(isinstance(size, int) for size in shape[1:3]):
            return OnnxModelSpec("movenet", "movenet", shape[1], shape[2], layout="nhwc", dtype=dtype)
    if shape[1] == 3 and all(isinstance(size, int) for size in shape[2:]):
        mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
        if names == {"simcc_x", "simcc_y"}:
            return OnnxModelSpec("simcc", "simcc", shape[2], shape[3], mean=mean, std=std)
        if len(outputs) == 1 and len(outputs[0].shape) == 4 and outputs[0].shape[1] == NUM_JOINTS:
            return OnnxModelSpec("heatmap", "heatmap", shape[2], shape[3], mean=mean, std=std)
    return None


def _disagreement(spec: OnnxModelSpec, inputs: Sequence[Node], outputs: Sequence[Node]) -> str | None:
    types = {"float32": "tensor(float)", "uint8": "tensor(uint8)", "int32": "tensor(int32)"}
    if len(inputs) != 1 or inputs[0].type != types[spec.dtype] or not _fits(inputs[0].shape, spec.input_shape):
        shape = list(spec.input_shape[1:])
        return f"the spec gives {spec.dtype} N pictures of {shape}, the model takes {_words(inputs)}"
    shapes = _output_shapes(spec)
    wrong_rank = [len(node.shape) for node in outputs] != [len(shape) for shape in shapes]
    joints = None if wrong_rank else _joint_axis(spec.output, outputs)
    if isinstance(joints, int) and joints != NUM_JOINTS:
        return f"the model gives {joints} joints; allowed: {NUM_JOINTS}, in COCO order"
    if wrong_rank or not all(map(_fits, (node.shape for node in outputs), shapes)):
        return f"the spec says {spec.output}, the model gives {_words(outputs)}"
    if not all(node.type in ("tensor(float)", "tensor(int64)", "tensor(int32)") for node in outputs):
        return f"outputs must be float32, or whole numbers for labels; the model gives {_words(outputs)}"
    if len({node.shape[0] for node in (*inputs, *outputs) if isinstance(node.shape[0], int)}) > 1:
        return f"the model takes {_words(inputs)} and gives {_words(outputs)}: not one result for every picture"
    ratios = _ratios(spec, outputs)
    if len(set(ratios)) > 1 or any(ratio <= 0 for ratio in ratios):
        return f"the outputs {_words(outputs)} are not one scale of the input {spec.width} x {spec.height}"
    return None


def _output_shapes(spec: OnnxModelSpec) -> tuple[tuple[Any, ...], ...]:
    """Shapes of the outputs; None where a size is the model's choice."""
    return {
        "mmdet-nms": ((None, None, 5), (None, None)),
        "movenet": ((None, 1, NUM_JOINTS, 3),),
        "simcc": ((None, NUM_JOINTS, None), (None, NUM_JOINTS, None)),
        "heatmap": ((None, NUM_JOINTS, None, None),),
    }[spec.output]


def _joint_axis(output: str, outputs: Sequence[Node]) -> Any:
    axis = {"movenet": 2, "simcc": 1, "heatmap": 1}.get(output)
    return None if axis is None else outputs[0].shape[axis]


def _ratios(spec: OnnxModelSpec, outputs: Sequence[Node]) -> list[float]:
    """Output sizes along x and y as multiples of the input's, where the model tells them."""
    last = [node.shape[-1] for node in outputs]
    if spec.output == "heatmap":
        last = [outputs[0].shape[-1], outputs[0].shape[-2]]
    pairs = zip(last, (spec.width, spec.height), strict=True) if spec.output in ("simcc", "heatmap") else ()
    return [size / side for size, side in pairs if isinstance(size, int)]


def _fits(shape: Sequence[Any], wanted: Sequence[Any]) -> bool:
    return len(shape) == len(wanted) and all(
        not isinstance(size, int) or want is None or size == want for size, want in zip(shape, wanted, strict=True)
    )


def _words(nodes: Sequence[Node]) -> str:
    return ", ".join(f"{node.name} {node.type[7:-1]} {list(node.shape)}" for node in nodes)
