"""What MMDeploy writes beside an exported model, as a spec: ``deploy.json``, which names the model's file, and
``pipeline.json``, which tells how pictures are prepared for it and how its outputs are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.pose.onnx_spec import OnnxModelSpec
from store.errors import UsageError

# The last task of a pipeline, which reads the outputs.
DECODERS = {
    "ResizeBBox": "mmdet-nms",
    "SimCCLabelDecode": "simcc",
    "TopdownHeatmapSimpleHeadDecode": "heatmap",
}


def read_pipeline(model: Path) -> OnnxModelSpec | None:
    """The spec of a model that MMDeploy exported, from the files beside it; None where they are not there, or are
    those of another model. Raises ``UsageError`` for a pipeline that cannot be done here."""
    deploy, pipeline = model.with_name("deploy.json"), model.with_name("pipeline.json")
    if not (deploy.is_file() and pipeline.is_file()):
        return None
    try:
        (entry,) = json.loads(deploy.read_text())["models"]
        if entry["net"] != model.name:
            return None
        tasks = json.loads(pipeline.read_text())["pipeline"]["tasks"]
        return _spec(entry["name"], tasks[0]["transforms"], tasks[-1])
    except (ValueError, KeyError, IndexError, TypeError, UsageError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise UsageError(
            f"{pipeline} cannot be read as the pipeline of a detector or a keypoint model ({what}); describe the model "
            f"in {model.with_suffix('.spec.json')}"
        ) from None


def _spec(name: str, transforms: list[dict[str, Any]], decoder: dict[str, Any]) -> OnnxModelSpec:
    if decoder["component"] not in DECODERS:
        raise ValueError(f"its outputs are read by {decoder['component']}; allowed: {', '.join(DECODERS)}")
    output, steps = DECODERS[decoder["component"]], {step["type"]: step for step in transforms}
    # Without it, pictures go in as they are loaded.
    normalise = steps.get("Normalize", {"mean": (0, 0, 0), "std": (1, 1, 1), "to_rgb": False})
    values: dict[str, Any] = {
        "colour": "rgb" if normalise["to_rgb"] else "bgr",
        "mean": tuple(map(float, normalise["mean"])),
        "std": tuple(map(float, normalise["std"])),
    }
    if output == "mmdet-nms":
        # The second padding of a pipeline, to a multiple of one, is none.
        (padding,) = (step for step in transforms if step["type"] == "Pad" and "size" in step)
        fill = padding["pad_val"]
        width, height = padding["size"]
        if width != height:
            raise ValueError(f"its input is {width} by {height}, not square")
        return OnnxModelSpec(name, output, height, width, fill=int(_first(fill)), **values)
    affine = steps["TopDownAffine"]
    if affine.get("use_udp") or decoder["params"].get("type") == "UDPHeatmap":
        raise ValueError("it is made for unbiased data processing (UDP), which this backend does not do")
    width, height = affine["image_size"]
    padding = steps["TopDownGetBboxCenterScale"].get("padding", 1.25)
    return OnnxModelSpec(output, output, height, width, padding=padding, **values)


def _first(fill: Any) -> float:
    """A grey level, which is written as a number, a list of three, or an object of such for pictures and masks."""
    if isinstance(fill, dict):
        fill = fill["img"]
    return fill[0] if isinstance(fill, list) else fill
