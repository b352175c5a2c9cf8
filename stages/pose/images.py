"""Crops around a person for MoveNet.

Coordinates are continuous: pixel i covers [i, i + 1), a picture of width W covers [0, W). Resizing is Pillow's
antialiased bilinear: on the COCO people of the tests it serves MoveNet better than plain bilinear sampling does.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image


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
