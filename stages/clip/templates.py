"""Prompt templates: the sentences into which class names are put, alone or as an ensemble, by name or from a file."""

from __future__ import annotations

from pathlib import Path

from store.errors import UsageError, nearest

DEFAULT_TEMPLATES = ("a video of a person {}.",)
# ``video`` is the default. ``ensemble`` says the same in several ways; a class is then the mean of its unit embeddings.
TEMPLATE_SETS: dict[str, tuple[str, ...]] = {
    "video": DEFAULT_TEMPLATES,
    "name": ("{}",),
    "photo": ("a photo of a person {}.",),
    "ensemble": (
        "a video of a person {}.",
        "a video of a person doing {}.",
        "a photo of a person {}.",
        "a person is {}.",
        "human action of {}.",
        "a video of {}.",
        "an example of {}.",
        "{}, a kind of human action.",
    ),
}


def check_template(template: str) -> None:
    """Raise ``UsageError`` for a template without exactly one ``{}``, or with another brace."""
    before, brace, after = template.partition("{}")
    if not brace or "{" in before + after or "}" in before + after:
        raise UsageError(f"template is {template!r}; give one {{}}, where the class name goes, and no other brace")


def read_templates(given: str) -> tuple[str, ...]:
    """The templates that ``given`` names: a set of ``TEMPLATE_SETS``, templates themselves (with a ``{}`` each, and
    ``|`` between them), or a file with one on each line.

    Raises ``UsageError`` for anything else, for a template that is none, and for one that comes twice.
    """
    if given in TEMPLATE_SETS:
        return TEMPLATE_SETS[given]
    if "{" in given:
        templates = tuple(part.strip() for part in given.split("|"))
    else:
        try:
            lines = Path(given).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"templates is {given!r}; allowed: {', '.join(TEMPLATE_SETS)}, templates such as 'a video of {{}}.', "
                f"or a text file with one on each line ({error}){nearest(given, TEMPLATE_SETS)}"
            ) from None
        templates = tuple(line.strip() for line in lines if line.strip())
        if not templates:
            raise UsageError(f"templates is {given!r}, a file without a line; give one template a line")
    for template in templates:
        check_template(template)
    if len(set(templates)) < len(templates):
        twice = next(template for template in templates if templates.count(template) > 1)
        raise UsageError(f"template {twice!r} is there twice in {given!r}; name it once")
    return templates
