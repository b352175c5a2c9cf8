"""Image towers of CLIP alone: images a second from model inputs on the device, in every way that may pay."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cache, cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.benchmarks.gpu.base import Bench, Need, nbytes
from pipeline.benchmarks.gpu.profiling import by_kind, kernels
from stages.clip.models import ResolvedModel, build_model, resolve_model
from stages.clip.towers import embed
from stages.precision import DTYPES

COSINE = "lowest cosine"
CHECKED = 8  # images of a batch whose embeddings are compared with those in fp32


def run(bench: Bench) -> None:
    """Where the time of a tower goes, then every way of running each."""
    # The profile first: models that are compiled take most of the time.
    models = {name: _Tower(name, bench) for name in bench.config.models}
    _profile(bench, models[bench.config.profiled])
    for tower in models.values():
        tower.time_eager()
    for tower in reversed(models.values()):  # the largest first
        tower.time_compiled()


def vit_operations(config: Mapping[str, Any], image_size: int) -> float:
    """Floating-point operations of matrix products for one image through a plain ViT, by open_clip's model config."""
    vision = config["vision_cfg"]
    width, layers, patch = vision["width"], vision["layers"], vision["patch_size"]
    patches = (image_size // patch) ** 2
    tokens = patches + 1
    hidden = int(width * vision.get("mlp_ratio", 4.0))
    layer = 2 * tokens * width * (4 * width + 2 * hidden) + 4 * tokens**2 * width
    return 2 * patches * 3 * patch**2 * width + layers * layer + 2 * width * config["embed_dim"]


def tower_need(model: ResolvedModel, weights: int, batch: int, precision: str) -> Need:
    """What a batch needs: weights and inputs are read once, embeddings written once."""
    size = DTYPES[precision].itemsize
    values = batch * (3 * model.image_size**2 + model.embed_dim)
    operations = batch * vit_operations(model.config, model.image_size)
    return Need(operations=operations, memory=weights + size * values, precision=precision)


class _Tower:
    def __init__(self, name: str, bench: Bench) -> None:
        self.bench, self.group = bench, f"CLIP {name}"
        self.model = resolve_model(name, "none")
        whole: Any = build_model(self.model, None, 0)
        self._plain: nn.Module = whole.visual

    def images(self, batch: int, precision: str) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        side = self.model.image_size
        some = torch.randn(CHECKED, 3, side, side, generator=generator).to(self.bench.device, DTYPES[precision])
        return some.repeat(-(-batch // CHECKED), 1, 1, 1)[:batch].contiguous()

    def visual(self, precision: str) -> nn.Module:
        return copy.deepcopy(self._plain).to(device=self.bench.device, dtype=DTYPES[precision])

    def time_eager(self) -> None:
        small, large = self.bench.config.batches[0], self.bench.config.batches[-1]
        self._time("fp32", large, "fp32", _eager)
        self._time(f"bf16, batch {small}, as extraction runs it", small, "bf16", _eager)
        self._time(f"bf16, batch {small}, CUDA graph", small, "bf16", partial(_graphed, _eager))
        self._time("bf16", large, "bf16", _eager)
        self._time("bf16, channels last", large, "bf16", _channels_last)
        self._time("bf16, CUDA graph", large, "bf16", partial(_graphed, _eager))

    def time_compiled(self) -> None:
        large = self.bench.config.batches[-1]
        torch._dynamo.reset()

        @cache  # it takes a minute, and both ways run the same
        def compile_once() -> Any:
            return torch.compile(self.visual("bf16"), backend=self.bench.config.compiler)

        def compiled(_: nn.Module, images: Tensor) -> Callable[[], Tensor]:
            return partial(_call, compile_once(), images)

        self._time("bf16, compiled", large, "bf16", compiled)
        self._time("bf16, compiled, CUDA graph", large, "bf16", partial(_graphed, compiled))

    def _time(
        self, name: str, batch: int, precision: str, way: Callable[[nn.Module, Tensor], Callable[[], Tensor]]
    ) -> None:
        weights = nbytes(self._plain) // 4 * DTYPES[precision].itemsize
        self.bench.time(
            self.group,
            name if "batch" in name else f"{name}, batch {batch}",
            lambda: way(self.visual(precision), self.images(batch, precision)),
            count=batch,
            unit="images",
            need=tower_need(self.model, weights, batch, precision),
            check=self._cosine,
        )

    @cached_property
    def _truth(self) -> Tensor:
        return _call(self.visual("fp32"), self.images(CHECKED, "fp32"))

    def _cosine(self, found: Tensor) -> dict[str, float]:
        cosines = torch.cosine_similarity(found[:CHECKED].float(), self._truth[: len(found)], dim=-1)
        return {COSINE: float(cosines.min())}


@torch.no_grad()
def _call(visual: Any, images: Tensor) -> Tensor:
    return embed(visual, images)


def _eager(visual: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    return partial(_call, visual, images)


def _channels_last(visual: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    last = torch.channels_last
    return partial(_call, visual.to(memory_format=last), images.to(memory_format=last))


def _graphed(
    way: Callable[[nn.Module, Tensor], Callable[[], Tensor]], visual: nn.Module, images: Tensor
) -> Callable[[], Tensor]:
    """The launches of a call recorded once; a replay copies its images in first, as it would for new ones."""
    if images.device.type != "cuda":
        raise RuntimeError("CUDA graphs need a GPU")
    static = images.clone()
    work = way(visual, static)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = work()

    def replay() -> Tensor:
        static.copy_(images)
        graph.replay()
        return output

    return replay


def _profile(bench: Bench, tower: _Tower) -> None:
    """Shares of the time by kind of kernel, and torch.profiler's table in a file."""
    name, batch = tower.model.name, bench.config.batches[-1]

    def find() -> dict[str, float]:
        found, table = kernels(_eager(tower.visual("bf16"), tower.images(batch, "bf16")), bench.device)
        (bench.folder / f"profile-{name}.txt").write_text(table)
        total = sum(kernel.seconds for kernel in found)
        shares = {f"{kind}, %": 100 * kernel.seconds / total for kind, kernel in by_kind(found).items()}
        return {**shares, "launches": sum(kernel.launches for kernel in found), "ms": 1000 * total}

    bench.figures(f"CLIP {name}: where the device's time goes", f"bf16, batch {batch}", find)
