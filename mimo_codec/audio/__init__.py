"""Audio: files, waveforms that a caller passes in, sample rates, and folders."""
