"""What ``vilp-pipe extract --dry-run`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.sizes import show_bytes, show_seconds

if TYPE_CHECKING:
    from pipeline.forecast import Forecast


def forecast_lines(planned: Forecast) -> list[str]:
    """A line a fact."""
    lines = [
        f"store: {planned.store}",
        f"videos: {planned.planned:,} in the plan, {planned.to_do:,} to do in {planned.shards:,} shards",
    ]
    if planned.missing:
        lines.append(f"missing: {planned.missing:,} listed videos are not on the disk")
    if planned.new:
        lines.append(f"new: {planned.new:,} videos came since the plan was made; --update adds them")
    if planned.gone:
        lines.append(f"gone: {planned.gone:,} videos of the plan are not on the disk")
    free = "" if planned.free_bytes is None else f"; {show_bytes(planned.free_bytes)} are free there"
    lines.append(f"disk: {show_bytes(planned.bytes)}{free}")
    lines += [f"  {group.path}: {group.videos:,} videos, {show_bytes(group.bytes)}" for group in planned.groups]
    lines.append(
        f"memory: {planned.lanes} lanes, decoded frames up to {show_bytes(planned.frame_bytes)} in all, features "
        f"{show_bytes(planned.unit_bytes)} a lane"
    )
    if planned.probe is not None and planned.seconds is not None:
        probe = planned.probe
        stages = ", ".join(f"{stage} {show_seconds(value)}" for stage, value in probe.stage_seconds.items())
        low, high = map(show_seconds, planned.seconds)
        lines += [
            f"  a worker with the models: {show_bytes(probe.peak_bytes)}",
            f"time: about {low if low == high else f'{low} to {high}'} on this machine",
            f"  measured on {probe.videos} of the videos in {show_seconds(probe.seconds)}, with whatever else ran: "
            f"{stages} a video",
        ]
    lines += [f"note: {note}" for note in planned.notes]
    return lines
