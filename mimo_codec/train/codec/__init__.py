"""The two stages of training a codec: losses, discriminators, audio to text."""
