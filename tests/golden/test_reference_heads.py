"""Inputs and outputs of the published BIKE and ViLP heads, matched to 1e-5."""

import numpy as np
import pytest
import torch

from pipeline.head.functional import frame_mean_logits, inbatch_loss, pvcs_published_logits, vcs_logits
from pipeline.head.temporal import TemporalTransformer


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "golden" / "reference_heads.npz") as arrays:
        return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}


def close(actual, expected):
    # Relative to the array's largest value where that exceeds 1: float32 itself is not finer.
    torch.testing.assert_close(actual, expected, atol=1e-5 * max(1.0, float(expected.abs().max())), rtol=0)


def temporal(golden):
    prefix = "temporal/"
    state = {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}
    module = TemporalTransformer(golden["frames"].shape[-1], positions=77)
    module.load_state_dict(state)
    return module.eval()(golden["frames"]).detach()


def test_vcs(golden):
    close(vcs_logits(golden["frames"], golden["words"], golden["classes"]), golden["bike_none_vcs_logits"])


def test_frame_mean(golden):
    close(frame_mean_logits(golden["frames"], golden["classes"]), golden["bike_none_dp_logits"])


def test_published_pvcs(golden):
    logits = pvcs_published_logits(golden["frames"], golden["pose"], golden["words"], golden["classes"])
    close(logits, golden["vilp_none_pvcs_logits"])


def test_temporal_transformer(golden):
    frames = temporal(golden)
    close(frames, golden["temporal_out"])
    close(vcs_logits(frames, golden["words"], golden["classes"]), golden["bike_transf_vcs_logits"])
    gated = pvcs_published_logits(frames, golden["pose"], golden["words"], golden["classes"])
    close(gated, golden["vilp_transf_pvcs_logits"])


def test_inbatch_loss_and_its_gradient(golden):
    frames = golden["frames"].clone().requires_grad_()
    logits = pvcs_published_logits(frames, golden["pose"], golden["words"], golden["classes"])
    logits = golden["logit_scale"] * logits[:, golden["labels"]]
    close(logits.detach(), golden["inbatch_logits"])
    loss = inbatch_loss(logits, golden["labels"])
    loss.backward()
    close(loss.detach(), golden["inbatch_loss"])
    close(frames.grad, golden["inbatch_loss_grad_frames"])


def test_every_array_of_the_file_is_used(golden):
    used = {"frames", "pose", "words", "classes", "labels", "logit_scale", "temporal_out"}
    used |= {"bike_none_vcs_logits", "bike_none_dp_logits", "bike_transf_vcs_logits"}
    used |= {"vilp_none_pvcs_logits", "vilp_transf_pvcs_logits"}
    used |= {"inbatch_logits", "inbatch_loss", "inbatch_loss_grad_frames"}
    assert {name for name in golden if not name.startswith("temporal/")} == used
