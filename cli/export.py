"""``vilp-pipe export``."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.app import app
from cli.config import keep_config
from cli.console import as_json, make_progress, only_result_on_stdout
from cli.options import WHERE_THERE_ARE_SEVERAL, ClipGroup, Json, PosefeatGroup, PoseGroup, Store, named, split_names
from cli.sizes import parse_bytes

Opt = typer.Option


@app.command()
def export(
    out: Annotated[str, Opt(help="Folder, or s3://bucket/prefix: empty, or what is there of this export.")],
    to: Annotated[
        str,
        Opt(
            "--format",
            help="webdataset (tar files) or npy (a file a video and array).",
            autocompletion=named("webdataset", "npy"),
        ),
    ] = "webdataset",
    store: Store = None,
    split: Annotated[int | None, Opt(help="Only videos of this split (default: all videos).")] = None,
    subset: Annotated[
        str | None, Opt(help="Of the split only train or test.", autocompletion=named("train", "test"))
    ] = None,
    arrays: Annotated[
        str | None,
        Opt(help="Arrays, with commas, such as cls,keypoints (default: all of CLIP and pose, and of --posefeat)."),
    ] = None,
    frames: Annotated[int | None, Opt(help="Fewer CLIP frames than are stored.")] = None,
    view: Annotated[str | None, Opt(help="One stored view (default: all).")] = None,
    clip: ClipGroup = None,
    pose: PoseGroup = None,
    video: Annotated[str | None, Opt(help=f"Id of the video model's {WHERE_THERE_ARE_SEVERAL}")] = None,
    posefeat: PosefeatGroup = None,
    shard_size: Annotated[str, Opt(help="About the size of a tar, which is made in memory.")] = "256MB",
    shuffle: Annotated[
        bool, Opt(help="Spread the videos over the tars in a fixed random order, or keep that of the store.")
    ] = True,
    json: Json = False,
) -> None:
    """Export features for other tools: WebDataset tars, or plain .npy files with an index in Parquet; with features of
    CLIP also the embeddings of the class names.

    Run it again after whatever ended it: it goes on.

    \b
      vilp-pipe export --store stores/hmdb51 --out hmdb51-train --split 1 --subset train
      vilp-pipe export --store stores/hmdb51 --format npy --arrays cls --out hmdb51-npy
    """
    with only_result_on_stdout() as print_result:
        from pipeline.export import export as write
        from pipeline.status import find_store
        from store.reader import FeatureStore

        opened = FeatureStore.open(find_store(store))
        done = write(
            opened,
            out,
            to=to,
            split=split,
            subset=subset,
            arrays=None if arrays is None else split_names(arrays),
            frames=frames,
            view=view,
            clip=clip,
            pose=pose,
            video=video,
            posefeat=posefeat,
            shard_bytes=parse_bytes("shard-size", shard_size),
            shuffle=shuffle,
            progress=make_progress(),
        )
        keep_config(out, store=opened.url)
        if json:
            print_result(as_json(done.to_dict()))
            return
        print_result(f"{done.videos:,} videos in {done.files:,} files in {done.out} ({done.present:,} were there)")
        if done.texts:
            print_result(f"embeddings of the class names: {', '.join(f'text/{name}' for name in done.texts)}")
        if done.left_out:
            print_result(f"{done.left_out:,} videos of the selection have no features and are left out")
