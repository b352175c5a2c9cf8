"""Keypoints and their motion as numbers that do not depend on where a person stands or how large they appear.

A person's joints are taken relative to the middle of the joints that are seen, in units of that person's size over the
whole clip, so that growing and shrinking stay visible; differences to the stored frame before are the motion. Nothing
here is learnt, so skeletons are computed once when features are loaded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.pose.coco import COCO_SWAP, NUM_JOINTS

# Steps in time and persons that are kept: motion is taken at the stored rate first.
STEPS, PERSONS = 24, 2
# Numbers a person and step: position (2) and confidence of each joint, motion of each (2), middle, its motion, present.
FEATURES = NUM_JOINTS * 5 + 5
_SMALLEST_SIZE = 1e-3


def mirror_keypoints(keypoints: Tensor) -> Tensor:
    """Keypoints [..., 17, 3] in fractions of the frame, seen in a mirror: left and right change places."""
    swapped = keypoints[..., list(COCO_SWAP), :]
    seen = swapped[..., 2:] > 0
    x, rest = swapped[..., :1], swapped[..., 1:]
    return torch.cat([torch.where(seen, 1 - x, 0.0), rest], dim=-1)


def skeletons(keypoints: Tensor, aspect: Tensor, *, steps: int = STEPS, persons: int = PERSONS) -> Tensor:
    """Skeletons [B, min(Tp, steps), min(P, persons), F] of keypoints [B, Tp, P, 17, 3] in fractions of the frame.

    ``aspect`` [B] is width / height of the frames. Of more persons those seen best over the clip are kept, best first.
    A step in which a person is not seen is all zeros; the last feature says whether they are seen.
    """
    keypoints = keypoints.float()
    seen = keypoints[..., 2] > 0
    points = keypoints[..., :2] * torch.stack([aspect, torch.ones_like(aspect)], dim=-1)[:, None, None, None]
    points = torch.where(seen.unsqueeze(-1), points, 0.0)
    count = seen.sum(dim=-1)
    middle = points.sum(dim=-2) / count.clamp(min=1).unsqueeze(-1)
    relative = (points - middle.unsqueeze(-2)) * seen.unsqueeze(-1)
    joints = count.sum(dim=1).clamp(min=1)
    size = (relative.square().sum((-1, -2)).sum(dim=1) / joints).sqrt().clamp(min=_SMALLEST_SIZE)
    present = count > 0
    home = (middle * present.unsqueeze(-1)).sum(dim=1) / present.sum(dim=1).clamp(min=1).unsqueeze(-1)
    relative = relative / size[:, None, :, None, None]
    path = (middle - home.unsqueeze(1)) * present.unsqueeze(-1) / size[:, None, :, None]
    confidence = torch.where(seen, keypoints[..., 2], 0.0)
    features = torch.cat(
        [
            relative.flatten(-2),
            confidence,
            _motion(relative, seen).flatten(-2),
            path,
            _motion(path.unsqueeze(-2), present.unsqueeze(-1)).squeeze(-2),
            present.unsqueeze(-1).float(),
        ],
        dim=-1,
    )
    stored = features.shape[1]
    kept = min(stored, steps)
    features = features[:, torch.arange(kept, device=features.device) * stored // kept]
    best = confidence.sum((1, 3)).argsort(dim=1, descending=True, stable=True)[:, :persons]
    return features.gather(2, best[:, None, :, None].expand(-1, kept, -1, features.shape[-1]))


def motion_shares(keypoints: Tensor, aspect: Tensor) -> Tensor:
    """How far each person moves beside the one who moves most: float32 [B, P] in [0, 1].

    ``keypoints`` [B, Tp, P, 17, 3] are in fractions of the frame, ``aspect`` [B] is its width / height.

    The way of a person is the sum over the stored steps of the mean way of the joints that are seen before and after.
    A camera that moves takes everybody along, which brings the shares closer to each other. Where nobody moves all are
    1.
    """
    keypoints = keypoints.float()
    seen = keypoints[..., 2] > 0
    points = keypoints[..., :2] * torch.stack([aspect, torch.ones_like(aspect)], dim=-1)[:, None, None, None]
    both = seen[:, 1:] & seen[:, :-1]
    ways = torch.where(both, torch.linalg.vector_norm(points.diff(dim=1), dim=-1), 0.0)
    way = (ways.sum(-1) / both.sum(-1).clamp(min=1)).sum(dim=1)
    most = way.amax(dim=1, keepdim=True)
    return torch.where(most > 0, way / most.clamp(min=torch.finfo(way.dtype).tiny), 1.0)


def _motion(values: Tensor, seen: Tensor) -> Tensor:
    """Difference to the step before [B, T, P, K, 2], zero at the first and where ``seen`` [B, T, P, K] misses one."""
    moved = torch.zeros_like(values)
    both = (seen[:, 1:] & seen[:, :-1]).unsqueeze(-1)
    moved[:, 1:] = (values[:, 1:] - values[:, :-1]) * both
    return moved
