"""Skeletons as volumes of heatmaps through a small 3D network, as PoseConv3D does (Duan et al., CVPR 2022).

A joint of a step becomes a Gaussian on a grid, its own channel; steps are the third axis. Convolutions over that volume
see where joints are, how they move and how they lie to each other, without a skeleton's graph, and a joint that the
estimator is unsure of is faint. Persons are drawn over each other, each around where they are on average and in units
of their size: two persons far apart both fill the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.heatmap import render
from stages.pose.coco import NUM_JOINTS

# Cells of the grid, sizes of a person from its middle to its edge, and the Gaussian's standard deviation in cells. (A
# person who stands is about three and a half sizes tall: see ``pipeline.head.skeleton``.)
GRID, REACH, SIGMA = 20, 2.5, 0.7
WIDTHS = (32, 64, 128)
GROUPS = 8


def volumes(skeleton: Tensor, step_mask: Tensor | None = None) -> Tensor:
    """Volumes float32 [B, 17, Ts, G, G] of skeletons [B, Ts, Q, F] (see ``skeletons``): a map a joint and step, the
    maximum over persons of confidence times the Gaussian. ``step_mask`` bool [B, Ts] is False where a step is hidden.
    """
    positions = skeleton[..., : 2 * NUM_JOINTS].unflatten(-1, (NUM_JOINTS, 2))
    confidence = skeleton[..., 2 * NUM_JOINTS : 3 * NUM_JOINTS]
    path = skeleton[..., 5 * NUM_JOINTS : 5 * NUM_JOINTS + 2]
    if step_mask is not None:
        confidence = confidence * step_mask[..., None, None]
    places = (positions + path.unsqueeze(-2)) / (2 * REACH) + 0.5
    joints = torch.cat([places, confidence.unsqueeze(-1)], dim=-1)
    # A map a joint: to ``render`` each joint is a picture of its own, with Q persons of one joint.
    return render(joints.permute(0, 3, 1, 2, 4).unsqueeze(-2), GRID, sigma=SIGMA)


class PoseConvNet(nn.Module):
    """Three convolutions over the volume, each at half the size of the one before, and the mean over what is left.

    Groups are normalised and not batches, so that a video's features do not depend on what it was trained beside.
    """

    width = WIDTHS[-1]

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = NUM_JOINTS
        for width in WIDTHS:
            layers.append(nn.Conv3d(before, width, 3, stride=2, padding=1, bias=False))
            layers += [nn.GroupNorm(GROUPS, width), nn.ReLU()]
            before = width
        self.layers = nn.Sequential(*layers)

    def forward(self, skeleton: Tensor, step_mask: Tensor | None = None) -> Tensor:
        """Features [B, 128] of skeletons [B, Ts, Q, F]."""
        features: Tensor = self.layers(volumes(skeleton, step_mask))
        return features.mean(dim=(2, 3, 4))
