"""The codec; its file list is the data flow: mel -> encoder -> quantizer -> decoder -> vocoder.

`config` says what a codec is, `transformer` is inside the networks, `checkpoint` reads and writes weights, and `model`
puts everything together as `MimoCodec`.
"""
