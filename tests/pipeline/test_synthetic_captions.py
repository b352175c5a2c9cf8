"""Captions of rendered frames are true, and say so of themselves."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.datasets.synthetic import SyntheticConfig, truth
from pipeline.datasets.synthetic.captions import (
    ACTIONS,
    FACTS,
    IDLE,
    NOBODY,
    PLACES,
    SEATED,
    WAYS,
    facts_of,
    held_out,
    true_of,
    write_caption,
    write_prompts,
)
from pipeline.datasets.synthetic.config import CLASSES, SCENE_OF
from pipeline.datasets.synthetic.script import Script, write_scripts

SET = SyntheticConfig(num_subjects=3, clips=2, sizes=((160, 120),))


@pytest.fixture(scope="module")
def scripts() -> list[Script]:
    return list(write_scripts(4, SET))


@pytest.fixture(scope="module")
def facts(scripts: list[Script]) -> list[np.ndarray]:
    return [facts_of(script) for script in scripts]


def fact(rows: np.ndarray, name: str) -> list[str]:
    return [FACTS[name][value] for value in rows[:, tuple(FACTS).index(name)]]


def test_every_caption_and_every_beginning_of_it_is_true_of_its_frame(facts: list[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    for row in np.concatenate(facts)[::7]:
        caption = write_caption(row, rng)
        assert len(caption.parts) == len(caption.said)
        assert true_of(row[None], caption.said).all(), caption.text
        # What has been said stays said.
        assert (caption.said[1:] & ~caption.said[:-1] == 0).all()


def test_a_beginning_leaves_open_what_its_words_leave_open(facts: list[np.ndarray]) -> None:
    row = next(r for rows in facts for r in rows if fact(r[None], "action") == ["hold ball"])
    rng = np.random.default_rng(0)
    captions = (write_caption(row, rng) for _ in range(500))
    caption = next(caption for caption in captions if " hold ball" in caption.text)
    column = tuple(FACTS).index("action")

    def open_after(word: str) -> set[str]:
        mask = caption.said[caption.parts.index(word), column]
        return {name for value, name in enumerate(ACTIONS) if mask >> value & 1}

    assert open_after("hold") == {"hold ball", "hold box", "hold umbrella"}
    assert open_after("ball") == {"hold ball"}


def test_prompts_ask_for_every_action_and_place_and_nothing_else(facts: list[np.ndarray]) -> None:
    prompts = write_prompts(np.random.default_rng(0))
    assert len(prompts) == len(WAYS) + len(PLACES)
    rows = np.concatenate(facts)
    true = true_of(rows, np.stack([prompt.said[-1] for prompt in prompts]))
    somebody = np.array(fact(rows, "persons")) != "0"
    assert (true.sum(1) == np.where(somebody, 2, 0)).all()
    for name, found in (("action", true[:, : len(WAYS)]), ("place", true[:, len(WAYS) :])):
        asked = tuple(WAYS if name == "action" else PLACES)
        said = np.array(asked)[found.argmax(1)]
        assert (said[somebody] == np.array(fact(rows, name))[somebody]).all()


def test_another_frame_makes_a_caption_false(facts: list[np.ndarray]) -> None:
    """Captions tell frames apart: most do not fit a random other one."""
    rng = np.random.default_rng(0)
    rows = np.concatenate(facts)
    rows = rows[rng.choice(len(rows), 400, replace=False)]
    true = true_of(rows, np.stack([write_caption(row, rng).said[-1] for row in rows]))
    assert true.diagonal().all()
    assert 0.02 < true.mean() < 0.4


def test_facts_are_those_of_the_script(scripts: list[Script], facts: list[np.ndarray]) -> None:
    seen: Counter[str] = Counter()
    for script, rows in zip(scripts, facts, strict=True):
        shown = [truth.boxes(script, person)[:, 4] > 0 for person in range(len(script.figures))]
        assert fact(rows, "persons") == [str(sum(person[f] for person in shown)) for f in range(script.num_frames)]
        assert set(fact(rows, "place")) == {script.scene}
        action = np.array(fact(rows, "action"))
        inside = (np.arange(script.num_frames) >= script.start) & (np.arange(script.num_frames) < script.end)
        if script.class_name in SCENE_OF:
            assert set(action) <= {IDLE, NOBODY}
        else:
            assert set(action[inside & shown[0]]) <= {script.class_name, IDLE, SEATED}
            assert (action[inside] == script.class_name).mean() > 0.5
            assert set(action[~inside]) <= {IDLE, SEATED, NOBODY}
        seen.update(action.tolist())
    assert set(seen) == set(ACTIONS)


def test_the_first_way_to_say_an_action_is_the_name_of_its_class() -> None:
    assert {name: ways[0] for name, ways in WAYS.items() if name in CLASSES} == {
        name: name for name in CLASSES if name not in SCENE_OF
    }


def test_combinations_are_held_out_of_every_class_and_every_object() -> None:
    scripts = list(write_scripts(0, SyntheticConfig(num_subjects=45)))
    new = Counter(script.class_name for script in scripts if held_out(script))
    count = Counter(script.class_name for script in scripts)
    for name in CLASSES:
        share = new[name] / count[name]
        assert 0.02 < share < 0.4, (name, share)
    objects = {script.prop.kind for script in scripts if script.prop and held_out(script)}
    assert objects == {"ball", "box", "umbrella"}
