"""The embedded CLIP, ``--clip stick``: how its weights in ``stages/clip/stick`` were trained, and what they are worth.

``python -m pipeline.stick --out DIR`` trains them anew and measures them. Everything comes from the renderer of the
synthetic set: frames, and captions of what was rendered (``pipeline.datasets.synthetic.captions``).
"""
