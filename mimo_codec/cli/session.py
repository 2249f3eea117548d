"""What the commands of `mimo-codec generate` share: their options, declared once, and where an answer goes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from mimo_codec.audio.formats import WRITABLE
from mimo_codec.cli.console import counter, print_line
from mimo_codec.cli.pipes import PIPE, check_standard_output, output_file
from mimo_codec.cli.plan import CODES, check_not_read
from mimo_codec.common.checks import require
from mimo_codec.common.files import atomic_path, check_target

if TYPE_CHECKING:
    import torch

    from mimo_codec.audio.sources import AnyPath
    from mimo_codec.lm import Generation, MimoAudioLM, Stop
    from mimo_codec.lm.request import TaskOptions

    Answer = Generation[torch.Tensor]
    Ask = Callable[[MimoAudioLM, TaskOptions], Answer]
    """(model, options) -> answer."""

SPOKEN = (*WRITABLE, *CODES)
"""Suffixes of files that hold speech."""
WRITTEN = (".txt", ".md")
"""Suffixes of files that hold text."""
ANY = (*SPOKEN, *WRITTEN)
"""Suffixes of files that hold speech or text."""
POSITIONS_PER_SECOND = 6.25
THOUGHTS = 500
"""Positions that a model may think for before it speaks."""
CUT = {
    **{name: f"cut at its limit ({name})" for name in ("max_new_patches", "max_seconds", "context")},
    "repetition": "ended because it only repeated itself (--no-end-runaway goes on)",
    "silence": "ended because it was silent (--no-end-runaway goes on)",
}
"""Reasons to stop that are not the end of what was to be said."""


@dataclass(frozen=True)
class Session:
    """The options of every command that asks a language model: which model, how it runs, how it answers."""

    model: Annotated[str, typer.Option("--model", "-m", help="Language model: folder or Hugging Face hub id.")]
    codec: Annotated[
        str | None,
        typer.Option(help="Codec to listen and speak with, as for encode --model.  [default: what MODEL names]"),
    ] = None
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same answer.")] = None
    sampling: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="How tokens are drawn: evaluation or greedy.  [default: as the task says]"),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        typer.Option(min=0.1, max=10.0, help="Above 1, sounds of the last second come less often."),
    ] = None
    end_runaway: Annotated[
        bool, typer.Option(help="End answers that only repeat themselves, or are silent, for 8 s or 96 tokens.")
    ] = True
    greedy: Annotated[bool, typer.Option("--greedy", help="Choose the likeliest tokens instead of drawing them.")] = (
        False
    )
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:1.  [default: cuda if there is one]")] = None
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16, of model and codec.  [default: as in the files]")
    ] = None
    quantize: Annotated[
        str | None, typer.Option(help="int8 or int4 weights, for little memory.", show_default=False)
    ] = None
    adapter: Annotated[
        str | None, typer.Option(help="Folder of an adapter that was trained for the model.", show_default=False)
    ] = None
    language: Annotated[
        str | None, typer.Option(help="Language of the instructions: en or zh.  [default: en, or the model's own]")
    ] = None
    compile: Annotated[
        bool | None, typer.Option(help="Compile the steps of generation.  [default: on CUDA]", show_default=False)
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False

    def load(self, codec: bool = True) -> MimoAudioLM:
        """Load the model, and the codec, if there is sound, that is asked for or that the model names."""
        from mimo_codec.lm import MimoAudioLM

        return MimoAudioLM.from_pretrained(
            self.model,
            codec=self._codec_name() if codec else None,
            device=self.device,
            dtype=self.dtype,
            quantize=self.quantize,
            instructions=self.language,
            compile=self.compile,
            adapter=self.adapter,
        )

    def load_codec(self, lm: MimoAudioLM) -> None:
        """Load the codec of a model that was loaded without."""
        from mimo_codec.codec.model import check_dtype
        from mimo_codec.lm.pipeline import load_speech_codec

        dtype = None if self.dtype is None else check_dtype(self.dtype)
        lm.use_codec(load_speech_codec(self._codec_name(), self.device, dtype))

    def _codec_name(self) -> str:
        from mimo_codec.lm.checkpoint import find_config

        recorded = find_config(self.model).codec
        codec = self.codec or (recorded and recorded.partition("@")[0])
        require(
            codec,
            f"{self.model}: does not say whose codes it was trained on, and those of another codec mean nothing to"
            " it: --codec NAME (XiaomiMiMo/MiMo-Audio-Tokenizer for the released models)",
        )
        return str(codec)

    def check(self) -> None:
        """Refuse what can be seen before gigabytes are loaded."""
        from mimo_codec.lm.request import find_preset

        find_preset(self.sampling)

    def _options(self, max_new: int, stop: Stop) -> TaskOptions:
        return {
            "seed": self.seed,
            "greedy": self.greedy,
            "sampling": self.sampling,
            "repetition_penalty": self.repetition_penalty,
            "max_new_patches": max_new,
            "stop": replace(stop, runaway=self.end_runaway),
        }

    def text_options(self, max_tokens: int, min_tokens: int = 0, ends: Sequence[str] = ()) -> TaskOptions:
        """Return the options of an answer in text, which strings may end."""
        from mimo_codec.lm import Stop

        return self._options(max_tokens, Stop(text=tuple(ends), min_new=min_tokens))

    def speech_options(self, max_seconds: float, thoughts: int = THOUGHTS, min_new: int = 0) -> TaskOptions:
        """Return the options of a spoken answer, which may have as many positions of text as of speech."""
        from mimo_codec.lm import Stop

        positions = round(2 * max_seconds * POSITIONS_PER_SECOND) + thoughts
        return self._options(positions, Stop(max_seconds=max_seconds, min_new=min_new))

    def answer(self, ask: Ask, options: TaskOptions, codec: bool = True) -> Answer:
        """Load the model, with its codec unless all is text; ask it, and count positions on the terminal."""
        lm = self.load(codec)
        with counter("positions") as counted:
            return ask(lm, {**options, "progress": counted})


def with_session(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option of `Session`; the function itself gets them as one argument, `session`."""
    parameters = dict(inspect.signature(command, eval_str=True).parameters)
    del parameters["session"]
    types, shared = get_type_hints(Session, include_extras=True), [field.name for field in fields(Session)]
    by_name = inspect.Parameter.KEYWORD_ONLY
    declared = {
        name: parameter.replace(annotation=types[name], kind=by_name)
        for name, parameter in inspect.signature(Session).parameters.items()
    }
    every = {**{name: parameter.replace(kind=by_name) for name, parameter in parameters.items()}, **declared}

    def run(**values: Any) -> None:
        session = Session(**{name: values.pop(name) for name in shared})
        session.check()
        command(session=session, **values)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {name: parameter.annotation for name, parameter in every.items()}
    run.__signature__ = inspect.Signature(list(every.values()))  # type: ignore[attr-defined]
    return run


# ---- where an answer goes --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """The file that an answer is written to, or standard output: text, or with - speech where a command speaks."""

    output: str | None
    overwrite: bool

    @classmethod
    def check(
        cls, output: str | None, overwrite: bool, suffixes: Sequence[str], inputs: Sequence[str | None] = ()
    ) -> Target:
        """Return a target; MimoError when no file can be made there, or its suffix is none of `suffixes`.

        inputs: files that the command reads, none of which may be the output.
        """
        if output == PIPE and suffixes == WRITTEN:
            output = None
        if output == PIPE:
            check_standard_output()
        elif output is not None:
            known = Path(output).suffix.lower() in suffixes
            require(known, f"{output}: an output file ends in {' '.join(suffixes)}")
            check_target(Path(output), overwrite)
        target = cls(output, overwrite)
        target.refuse(name for name in inputs if name is not None)
        return target

    def refuse(self, inputs: Iterable[AnyPath]) -> None:
        """Raise MimoError when the file is one of these, which the command reads."""
        if self.output is not None and self.output != PIPE:
            check_not_read(Path(self.output), inputs)

    @property
    def is_spoken(self) -> bool:
        """Whether the file holds speech."""
        return self.output is not None and (self.output == PIPE or Path(self.output).suffix.lower() in SPOKEN)

    def save(self, found: Answer, expected_end: str = "") -> None:
        """Write an answer, and say when it was cut at a limit other than `expected_end`."""
        try:
            if self.is_spoken:
                self._save_spoken(found)
            else:
                self._save_written(found)
        finally:  # after the file, which must not depend on what the terminal can show
            if found.stop_reason != expected_end:
                warn_if_cut(found)
            if self.is_spoken and found.text:
                print(found.text, file=sys.stderr if self.output == PIPE else sys.stdout)

    def _save_spoken(self, found: Answer) -> None:
        from mimo_codec.audio.writer import save_audio

        name, codes = "standard output" if self.output == PIPE else str(self.output), found.codes
        spoke = codes is not None and found.waveform is not None
        require(spoke, f"{name}: the model answered without speech, which ended with {found.stop_reason}")
        assert codes is not None and found.waveform is not None
        with output_file(str(self.output), ".wav", ["answer"]) as output:
            if Path(output).suffix.lower() in CODES:
                codes.save(output, self.overwrite)
            else:
                save_audio(output, found.waveform, codes.sample_rate, self.overwrite)

    def _save_written(self, found: Answer) -> None:
        if found.thoughts:
            print(found.thoughts, file=sys.stderr)
        if self.output is None:
            print(found.text)
            return
        with atomic_path(self.output, self.overwrite) as temporary:
            temporary.write_text(found.text + "\n", encoding="utf-8")


def warn_if_cut(found: Answer) -> None:
    """Print a line on stderr when an answer has not come to its end."""
    if found.stop_reason in CUT:
        print_line(f"the answer was {CUT[found.stop_reason]}")


def check_answer(speaks: bool, voice: str | None, thinking: bool) -> None:
    """Raise MimoError for options of the other kind of answer."""
    require(voice is None or speaks, "--voice is for spoken answers: --output says where they go")
    require(not (thinking and speaks), "--thinking is for answers in text, and --output asks for spoken ones")
