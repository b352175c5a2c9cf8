"""Pictures for models on a CPU: frames fitted into a canvas, and crops around persons.

``letterbox`` and ``window_crop`` do with OpenCV what the test pipelines of mmdet and mmpose do with it. For other
devices ``stages.pose.crops`` does the same.

For MoveNet, which comes with no such pipeline, ``crop`` is Pillow's antialiased bilinear resizing: on the COCO people
of the tests that serves it better. There coordinates are continuous: pixel i covers [i, i + 1).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from PIL import Image


def letterbox(frame: np.ndarray, width: int, height: int, fill: int) -> tuple[np.ndarray, tuple[float, float]]:
    """``frame`` uint8 [H, W, 3] resized to fit: uint8 [height, width, 3], ``fill`` at the right and the bottom, and the
    factors of x and y to it."""
    source_height, source_width = frame.shape[:2]
    ratio = min(width / source_width, height / source_height)
    size = int(source_width * ratio + 0.5), int(source_height * ratio + 0.5)
    picture = np.full((height, width, 3), fill, np.uint8)
    picture[: size[1], : size[0]] = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
    return picture, (size[0] / source_width, size[1] / source_height)


def window_crop(
    frame: np.ndarray, start: np.ndarray, step: np.ndarray, *, width: int, height: int, fill: int = 0
) -> np.ndarray:
    """The frame uint8 [H, W, 3] sampled bilinearly from the pixel ``start`` (x, y) on, ``step`` (x, y) pixels from one
    to the next: uint8 [height, width, 3], grey of level ``fill`` outside. OpenCV rounds places to 1/32 of a pixel."""
    to_frame = np.array([[step[0], 0, start[0]], [0, step[1], start[1]]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(frame, to_frame, (width, height), flags=flags, borderValue=(fill,) * 3)


def crop_window(box: np.ndarray, *, aspect: float, padding: float) -> np.ndarray:
    """The window (x1, y1, width, height) around a box (x1, y1, x2, y2): same centre, the smallest of width / height
    ``aspect`` that holds it, then ``padding`` times as large; one pixel at least."""
    x1, y1, x2, y2 = (float(value) for value in box[:4])
    width, height = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    width, height = max(width, height * aspect) * padding, max(height, width / aspect) * padding
    return np.array([(x1 + x2 - width) / 2, (y1 + y2 - height) / 2, width, height])


def crop(frame: np.ndarray, window: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """The window (x1, y1, width, height; may reach outside, which is black) of a frame as uint8 [height, width, 3]."""
    x1, y1 = window[:2]
    x2, y2 = window[:2] + window[2:]
    left, top, right, bottom = math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)
    canvas = np.zeros((bottom - top, right - left, 3), dtype=np.uint8)
    inner = frame[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    row, column = max(-top, 0), max(-left, 0)
    canvas[row : row + inner.shape[0], column : column + inner.shape[1]] = inner
    source = (x1 - left, y1 - top, x2 - left, y2 - top)
    resized = Image.fromarray(canvas).resize((width, height), Image.Resampling.BILINEAR, box=source)
    return np.asarray(resized)
