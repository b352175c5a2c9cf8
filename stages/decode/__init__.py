"""Decoding: exact frames of one video, and of many in a process that can be killed."""

from stages.decode.api import decode_video
from stages.decode.backends import BACKENDS, Backend
from stages.decode.sampling import ClipSampling
from stages.decode.stage import DecodeConfig, DecodeOutcome, Decoder, decoder_record
from stages.decode.worker import DecodedChunk, DecodeWorker

__all__ = [
    "BACKENDS",
    "Backend",
    "ClipSampling",
    "DecodeConfig",
    "DecodeOutcome",
    "DecodeWorker",
    "DecodedChunk",
    "Decoder",
    "decode_video",
    "decoder_record",
]
