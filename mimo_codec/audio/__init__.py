"""Sound in and out: files of audio, and sample rates."""
