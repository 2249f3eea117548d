"""Suffixes of audio files: which can be read, and which can be written."""

from __future__ import annotations

from importlib.util import find_spec

SNDFILE_SUFFIXES = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc"),
    *(".caf", ".w64", ".rf64", ".au", ".snd", ".sph", ".voc"),
)
AV_SUFFIXES = (".m4a", ".mp4", ".aac", ".webm", ".mka", ".mkv", ".mov", ".wma", ".amr", ".ac3", ".3gp")
AUDIO = (*SNDFILE_SUFFIXES, *(AV_SUFFIXES if find_spec("av") else ()))
"""Suffixes of the files in folders that count as audio: those that can be read here."""

WRITTEN_AS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
"""Suffix of a file to write -> libsndfile's container and coding."""
WRITABLE = tuple(WRITTEN_AS)
