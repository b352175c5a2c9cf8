"""Heads on made-up features where the right answer is known: each would fail if a head ignored its input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_heads import accuracy, only, trained

from pipeline.config import default_config
from pipeline.datasets.synthetic import SyntheticConfig, render_dataset
from pipeline.extraction import extract
from pipeline.head import train_head
from pipeline.head.checkpoint import load_predictions
from pipeline.head.config import INPUTS, HeadConfig
from pipeline.head.functional import unit
from pipeline.head.skeleton import skeletons
from pipeline.head.train import TrainConfig, fit, new_head, predict
from store.reader import FeatureStore


def zero_shot(name, inputs, text):
    return accuracy(new_head(HeadConfig(head=name), inputs, text), inputs)


def test_one_strong_frame_among_neutral_ones(world):
    """128 dimensions, 20 classes, one of 8 frames: the words find it, the mean drowns it."""
    train, test = world.strong_frame(400), world.strong_frame(200)
    assert zero_shot("vcs", test, world.text) > 0.9
    assert zero_shot("mean", test, world.text) < 0.7
    learnt = {name: accuracy(trained(name, train, world.text), test) for name in ("vcs", "mean")}
    assert learnt["vcs"] > learnt["mean"] + 0.1


def test_frames_that_are_all_weak(world):
    """Every frame hints at its class under much noise: the mean cancels the noise, and spotting trusts one frame."""
    train, test = world.weak_frames(400), world.weak_frames(400)
    assert zero_shot("mean", test, world.text) > 0.9
    assert zero_shot("vcs", test, world.text) < 0.8
    # At a high temperature spotting is the mean of normalised frames.
    warm = new_head(HeadConfig(head="vcs", tau=10.0), test, world.text)
    assert accuracy(warm, test) > 0.9
    learnt = {name: accuracy(trained(name, train, world.text), test) for name in ("vcs", "mean")}
    assert learnt["mean"] > learnt["vcs"] + 0.05


def test_persons_carry_the_class_and_background_another(make_world):
    """Cells under the person mean the class, all others an independent class."""
    world = make_world(classes=10, dim=64)
    train, test = world.persons_in_cells(600), world.persons_in_cells(300)
    config = TrainConfig(epochs=20, batch_size=64)

    def learnt(name, **others):
        inputs = [
            half.only(INPUTS[name], **{key: half.tensors[value] for key, value in others.items()})
            for half in (train, test)
        ]
        head = trained(name, inputs[0], world.text, config)
        return head, accuracy(head, inputs[1])

    head, with_pose = learnt("pvcs")
    assert head.alpha > 0.1
    assert with_pose > learnt("vcs")[1] + 0.2
    assert with_pose > learnt("attn")[1] + 0.2
    # Trained on the persons of other videos it gains nothing, and its share of them stays small.
    astray, shuffled = learnt("pvcs", pooled="elsewhere")
    assert shuffled < with_pose - 0.2
    assert shuffled < learnt("vcs")[1] + 0.1
    assert astray.alpha < head.alpha


def test_pose_that_alone_carries_the_class(make_world):
    world = make_world(classes=6, dim=32)
    train, test = world.postures(360), world.postures(180)
    # Late fusion takes time to turn down a text stream that starts out sure of itself.
    epochs = {"pose": 15, "poseconv": 5, "vcs+pose": 40, "vcs": 15, "mean": 15}
    heads = {
        name: trained(name, only(train, name), world.text, TrainConfig(epochs=many, batch_size=64))
        for name, many in epochs.items()
    }
    found = {name: accuracy(head, only(test, name)) for name, head in heads.items()}
    assert found["pose"] > 0.85
    assert found["poseconv"] > 0.85
    assert found["vcs+pose"] > 0.7
    assert found["vcs"] < 0.35
    assert found["mean"] < 0.35
    # It is the skeletons that say so: those of other videos do not.
    assert accuracy(heads["pose"], test.only(INPUTS["pose"], skeleton=test.tensors["skeleton"].roll(1, 0))) < 0.35


def test_motion_alone_tells_a_movement_from_its_reverse(make_world):
    """An arm that rises and one that sinks pass through the same postures."""
    world = make_world(classes=2, dim=16)

    def draw(videos):
        labels = world.labels(videos)
        keypoints = world.standing(videos)
        rise = torch.linspace(0, 0.3, keypoints.shape[1])
        rise = torch.where(labels[:, None] == 0, rise, rise.flip(0))
        keypoints[:, :, 0, 9, 1] -= rise
        return world.inputs(labels, skeleton=skeletons(keypoints, torch.ones(videos)))

    train, test = draw(200), draw(100)
    for head, epochs in (("pose", 15), ("poseconv", 8)):
        assert accuracy(trained(head, train, world.text, TrainConfig(epochs=epochs, batch_size=32)), test) > 0.9, head


def test_order_is_seen_by_the_temporal_module_only(make_world):
    """Classes that are each other in reverse."""
    world = make_world(classes=2, dim=32)
    ends = world.noise(2, 32)

    def draw(videos):
        labels = world.labels(videos)
        steps = torch.linspace(0, 1, 4).view(1, 4, 1)
        steps = torch.where(labels.view(-1, 1, 1) == 0, steps, 1 - steps)
        frames = (1 - steps) * ends[0] + steps * ends[1] + 0.3 * world.noise(videos, 4, 32)
        return world.inputs(
            labels,
            frames=frames,
            pooled=torch.zeros_like(frames),
            presence=torch.zeros(videos, 4),
            tokens=torch.ones(videos, 4, 2, 2, 32) + 0.1 * world.noise(videos, 4, 2, 2, 32),
            heatmap=torch.zeros(videos, 4, 2, 2),
        )

    train, test = draw(400), draw(200)
    config = TrainConfig(epochs=15, batch_size=64)
    assert accuracy(trained("fuse", train, world.text, config), test) > 0.9
    assert 0.35 < accuracy(trained("vcs", only(train, "vcs"), world.text, config), only(test, "vcs")) < 0.65


REVERSED = ("sit down", "stand up", "pick up", "put down")


@pytest.fixture(scope="module")
def reversed_pairs(tmp_path_factory):
    """Sitting down and standing up, picking up and putting down: the same frames in another order, as rendered and as
    the embedded CLIP sees them."""
    root = tmp_path_factory.mktemp("pairs")
    render_dataset(root / "videos", config=SyntheticConfig(classes=REVERSED, clips=8))
    recipe = default_config("synthetic")
    extract(
        replace(
            recipe,
            root=str(root / "videos"),
            store=str(root / "store"),
            engine="inline",
        )
    )
    return FeatureStore.open(root / "store")


def right_within_pairs(scores, labels, class_names, classes=REVERSED):
    """Share of the videos of some classes whose class beats the one that is its reverse."""
    pair = np.array([0 if name in REVERSED[:2] else 1 for name in class_names])
    own = np.where(pair == pair[labels][:, None], scores, -np.inf)
    return float((own.argmax(axis=1) == labels)[np.isin(np.array(class_names)[labels], classes)].mean())


@pytest.mark.slow
def test_who_tells_reversed_pairs_of_the_synthetic_videos(reversed_pairs, tmp_path):
    """Heads that do not see the order of frames are at chance, whatever CLIP knows; those on skeletons, and those with
    a temporal module on what the embedded CLIP sees, are not. (It sees how far somebody sits down, and hardly what is
    picked up: heads on its frames are asked about the first pair.)"""

    def within_pairs(head, classes=REVERSED):
        options = {"epochs": 40, "training": TrainConfig(batch_size=32)}
        out = tmp_path / f"{head.head} {head.modalities}"
        run = train_head(reversed_pairs, head=head, split="all", out=out, **options)
        found = [right_within_pairs(p.scores, p.labels, run.class_names, classes) for p in load_predictions(run)]
        return float(np.mean(found))

    for blind in ("mean", "vcs", "pvcs"):
        assert 0.36 < within_pairs(HeadConfig(head=blind)) < 0.64, blind
    for seeing in ("pose", "vcs+pose"):
        assert within_pairs(HeadConfig(head=seeing)) > 0.64, seeing
    for seeing in (HeadConfig(modalities="V+T"), HeadConfig()):
        assert within_pairs(seeing, REVERSED[:2]) > 0.7, seeing


@pytest.mark.slow
def test_temporal_modules_tell_reversed_pairs_of_the_synthetic_videos(reversed_pairs, make_world):
    """Frames are the true posture in each, through a fixed random projection: all that a perfect eye would see of the
    person, without any motion."""
    world = make_world(classes=4, dim=64, seed=3)
    eye = torch.randn(36, 64, generator=torch.Generator().manual_seed(7))

    def seen(split, subset):
        features = reversed_pairs.load(split=split, subset=subset, arrays=("keypoints",))
        aspect = features.sizes[:, 0] / features.sizes[:, 1]
        person = skeletons(features["keypoints"], aspect, steps=16, persons=1)[:, :, 0]
        # Joints about the middle, and the way of the middle: what is left out is confidence and motion.
        frames = unit(torch.cat([person[..., :34], person[..., 85:87]], dim=-1) @ eye)
        nobody = torch.zeros(frames.shape[:2])
        return world.inputs(
            features.labels,
            frames=frames,
            pooled=torch.zeros_like(frames),
            presence=nobody,
            pose_embedding=torch.ones_like(frames),
            tokens=frames[:, :, None, None].expand(-1, -1, 2, 2, -1),
            heatmap=nobody[..., None, None].expand(-1, -1, 2, 2),
        )

    halves = [[seen(split, subset) for subset in ("train", "test")] for split in (1, 2, 3)]

    def within_pairs(config):
        found = []
        for train, test in halves:
            head = new_head(config, train.only(config.inputs), world.text)
            training = TrainConfig(epochs=60, batch_size=32, learning_rate=3e-3)
            fit(head, train.only(config.inputs), training)
            scores = predict(head, test.only(config.inputs)).numpy()
            found.append(right_within_pairs(scores, test.labels.numpy(), reversed_pairs.class_names))
        return float(np.mean(found))

    for name in ("mean", "vcs", "pvcs", "vilp"):
        assert 0.38 < within_pairs(HeadConfig(head=name)) < 0.56, name
    for config in (HeadConfig(), HeadConfig(modalities="V+T"), HeadConfig(head="vilp", temporal_layers=2)):
        assert within_pairs(config) > 0.6, config
