"""Speech to speech by example: voice, rate and style conversion, noise removal, translation."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mimo_codec.audio.formats import AUDIO
from mimo_codec.common.checks import require
from mimo_codec.evaluation.lm.items import Example, Item, Side, seconds_of
from mimo_codec.evaluation.lm.judges import word_errors
from mimo_codec.evaluation.lm.prompts import INT, Piece, Sound, Speech, spoken_examples
from mimo_codec.evaluation.lm.suite import (
    END_OF_TEXT,
    SPEECH_END,
    Answer,
    Judged,
    Metric,
    Options,
    Suite,
    find_file,
    resolve,
    spoken_options,
)
from mimo_codec.evaluation.lm.tables import read_columns, read_fields, read_text
from mimo_codec.lm.instructions import Instructions
from mimo_codec.lm.prompts import SPEECH, Markup

LONGEST = 3.0
"""An answer ends after so many times the seconds of the longer of source and target."""
WORD_ERRORS = Metric("word errors", False, percent=True, weight="words")
SIMILARITY = Metric("voice similarity", True)
OPINION = Metric("DNSMOS", True)
SPOKE = Metric("spoke", True, percent=True)


class SpeechToSpeech(Suite):
    """Pairs of a sound and another that was made of it; the examples show what is to be done."""

    shots = (16,)

    def prompt(self, item: Item, examples: Sequence[Example], mode: str, words: Instructions) -> list[Piece]:
        """Lay out pairs of sound and spoken answer, and the sound that is asked."""
        pairs = [(_sound(shown.question), _speech(shown.answer)) for shown in examples]
        return [INT, *spoken_examples(pairs), _sound(item.question), "\n", Markup(SPEECH)]

    def options(self, item: Item, mode: str, shots: int) -> Options:
        """Speak, to the end of the text or of the speech, or three times as long as the sounds of the item."""
        longest = max(seconds_of(side.audio) for side in (item.question, item.answer) if side.audio is not None)
        return spoken_options(LONGEST * longest, stop=(END_OF_TEXT, SPEECH_END))

    def hears_examples(self, mode: str) -> bool:
        """Return that the texts of spoken examples are needed."""
        return True

    def judge(self, item: Item, examples: Sequence[Example], mode: str, answer: Answer) -> Judged:
        """Score a spoken answer; one without speech has no score but that it has not spoken."""
        spoken = answer.spoken
        if spoken is None:
            return Judged({"spoke": 0.0})
        scores, details = self.compare(item, examples, spoken)
        return Judged(scores | {"spoke": 1.0}, details)

    @abstractmethod
    def compare(self, item: Item, examples: Sequence[Example], spoken: Any) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the scores of a spoken answer, and what the judges saw."""

    def errors(self, item: Item, spoken: Any) -> tuple[dict[str, float], dict[str, Any]]:
        """Compare the words that are heard with those of the right answer, heard too where they are not known."""
        heard = self.judges.transcribe(spoken)
        return word_errors(self.right_text(item), heard), {"heard": heard}

    def likeness(self, item: Item, examples: Sequence[Example], spoken: Any) -> float:
        """Compare the voice with that of the last example's answer, or without examples with the right answer's."""
        shown = [one.answer.audio for one in examples if one.answer.audio is not None]
        target = shown[-1] if shown else item.answer.audio
        return math.nan if target is None else self.judges.similarity(target, spoken)


class VoiceConversion(SpeechToSpeech):
    """The emotional speech of ESD: another speaker says the same; every row has its own examples."""

    name = "voice-conversion"
    metrics: ClassVar = {
        "similarity": SIMILARITY,
        "similarity_source": Metric("voice similarity to the source", False),
        "wer": WORD_ERRORS,
        "spoke": SPOKE,
    }
    layout = "VoiceConversion.tsv with source_id, source_path, target_id, target_path and prompt (source#target|...)"

    def needs(self, mode: str) -> Sequence[str]:
        """Return that voices and words are judged."""
        return ("recogniser", "encoder")

    def load(self, data: Path) -> list[Item]:
        """Read the rows; texts stand in SPEAKER.txt two folders above a sound, as in ESD."""
        path = find_file(data, "VoiceConversion.tsv", "ESD/VoiceConversion.tsv")
        texts = _Texts()
        items = []
        rows = read_columns(path, "source_id", "source_path", "target_id", "target_path", "prompt")
        for number, row in enumerate(rows):
            shown = []
            for pair in filter(None, row["prompt"].split("|")):
                names = pair.split("#")
                require(len(names) == 2, f"{path}: row {number}: prompt: {pair!r} is not source#target")
                source, target = (resolve(name, path.parent) for name in names)
                shown.append(Example(Side(audio=source), Side(texts.of(target), target)))
            target = resolve(row["target_path"], path.parent)
            items.append(
                Item(
                    f"{row['source_id']}_{row['target_id']}",
                    Side(audio=resolve(row["source_path"], path.parent)),
                    Side(texts.of(target), target),
                    examples=tuple(shown),
                )
            )
        return items

    def compare(self, item: Item, examples: Sequence[Example], spoken: Any) -> tuple[dict[str, float], dict[str, Any]]:
        """Compare voice and words."""
        errors, details = self.errors(item, spoken)
        assert item.question.audio is not None
        voices = {
            "similarity": self.likeness(item, examples, spoken),
            "similarity_source": self.judges.similarity(item.question.audio, spoken),
        }
        return voices | errors, details


class Pairs(SpeechToSpeech):
    """Lists of `source|target`, or `source|target|text of the target`, a file for each kind of change."""

    layout = "one or several lists *.scp with a line source|target, or source|target|text, for each pair"

    def needs(self, mode: str) -> Sequence[str]:
        """Return that words and voices are judged."""
        return ("recogniser", "encoder")

    def load(self, data: Path) -> list[Item]:
        """Read all lists; each is a group, whose pairs are examples of each other."""
        lists = [data] if data.is_file() else sorted(data.rglob("*.scp"))
        require(lists, f"{data}: has no list *.scp with lines source|target")
        items = []
        for path in lists:
            group = path.stem if data.is_file() else path.relative_to(data).with_suffix("").as_posix()
            for number, row in enumerate(read_fields(path, "|", (2, 3), "source|target or source|target|text")):
                source, target = (resolve(name, path.parent) for name in row[:2])
                text = row[2] if len(row) == 3 else None
                sides = Side(audio=source), Side(text, target)
                items.append(Item(f"{group} {number}", *sides, group=group, pool=self.pool(group, source)))
        return items

    def pool(self, group: str, source: Path) -> str:
        """Return among which pairs the examples of one are drawn."""
        return group


class RateConversion(Pairs):
    """Slower or faster speech of the same words."""

    name = "rate-conversion"
    metrics: ClassVar = {
        "rate": Metric("rate", True),
        "rate_error": Metric("error of the rate", False, percent=True),
        "similarity": SIMILARITY,
        "wer": WORD_ERRORS,
        "spoke": SPOKE,
    }

    def compare(self, item: Item, examples: Sequence[Example], spoken: Any) -> tuple[dict[str, float], dict[str, Any]]:
        """Compare durations, voice and words: `rate` is by how much the answer is faster than the source."""
        errors, details = self.errors(item, spoken)
        assert item.question.audio is not None and item.answer.audio is not None
        seconds = len(spoken[0]) / spoken[1]
        rate = seconds_of(item.question.audio) / seconds
        right = seconds_of(item.question.audio) / seconds_of(item.answer.audio)
        rates = {"rate": rate, "rate_error": abs(rate / right - 1)}
        return rates | {"similarity": self.likeness(item, examples, spoken)} | errors, details


class StyleConversion(Pairs):
    """Sad, laughing or whispered speech of the same words, as in Expresso."""

    name = "style-conversion"
    metrics: ClassVar = {"similarity": SIMILARITY, "wer": WORD_ERRORS, "opinion": OPINION, "spoke": SPOKE}

    def needs(self, mode: str) -> Sequence[str]:
        """Return all judges."""
        return ("recogniser", "encoder", "opinion")

    def compare(self, item: Item, examples: Sequence[Example], spoken: Any) -> tuple[dict[str, float], dict[str, Any]]:
        """Compare with the target's voice in that style, its words, and predict what listeners think."""
        errors, details = self.errors(item, spoken)
        assert item.answer.audio is not None
        similarity = self.judges.similarity(item.answer.audio, spoken)
        return {"similarity": similarity, "opinion": self.judges.opinion(spoken), **errors}, details


class Denoising(StyleConversion):
    """Noise that is taken away: lists of noisy|clean, or folders noisy and clean, as VoiceBank-DEMAND has them."""

    name = "denoising"
    metrics: ClassVar = {
        "opinion": OPINION,
        "opinion_source": Metric("DNSMOS of the noisy sound", True),
        "similarity": SIMILARITY,
        "wer": WORD_ERRORS,
        "spoke": SPOKE,
    }
    layout = "lists *.scp of noisy|clean, or folders noisy*/ and clean*/ with files of the same names"

    def load(self, data: Path) -> list[Item]:
        """Read the lists, or pair the files of both folders by their names."""
        below = sorted(path for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
        folders = [[path for path in below if path.name.startswith(name)] for name in ("noisy", "clean")]
        if not all(folders):
            return super().load(data)
        items = []
        for noisy in sorted(path for path in folders[0][0].iterdir() if path.suffix.lower() in AUDIO):
            clean = folders[1][0] / noisy.name
            sides = Side(audio=noisy), Side(_beside(clean), clean)
            items.append(Item(noisy.stem, *sides, pool=self.pool("", noisy)))
        require(items, f"{folders[0][0]}: is empty")
        return items

    def pool(self, group: str, source: Path) -> str:
        """Return the speaker, who is named before the first _ of a file, as in VoiceBank."""
        return f"{group} {source.stem.split('_')[0]}"

    def compare(self, item: Item, examples: Sequence[Example], spoken: Any) -> tuple[dict[str, float], dict[str, Any]]:
        """Compare with the clean sound, and predict what listeners think of the answer and of the noisy sound."""
        scores, details = super().compare(item, examples, spoken)
        assert item.question.audio is not None
        return scores | {"opinion_source": self.judges.opinion(item.question.audio)}, details


class Translation(Pairs):
    """Speech in another language: BLEU of the words that are heard."""

    name = "translation"
    metrics: ClassVar = {
        "bleu": Metric("BLEU of sentences", True),
        "chrf": Metric("chrF of sentences", True),
        "similarity": SIMILARITY,
        "spoke": SPOKE,
    }

    def compare(self, item: Item, examples: Sequence[Example], spoken: Any) -> tuple[dict[str, float], dict[str, Any]]:
        """Compare the words that are heard with the translation's."""
        from sacrebleu import sentence_bleu, sentence_chrf

        heard, right = self.judges.transcribe(spoken), self.right_text(item)
        assert item.question.audio is not None
        scores = {
            "bleu": float(sentence_bleu(heard, [right]).score),
            "chrf": float(sentence_chrf(heard, [right]).score),
            "similarity": self.judges.similarity(item.question.audio, spoken),
        }
        return scores, {"heard": heard}

    def needs(self, mode: str) -> Sequence[str]:
        """Return that words, voices and translations are judged."""
        return ("recogniser", "encoder", "translation")


class _Texts:
    """Texts of the speakers of ESD: SPEAKER/SPEAKER.txt with the name of a sound and its text between tabs."""

    def __init__(self) -> None:
        self.known: dict[Path, dict[str, str]] = {}

    def of(self, sound: Path) -> str | None:
        folder = sound.parent.parent
        if folder not in self.known:
            path = folder / f"{folder.name}.txt"
            lines = [line.split("\t") for line in read_text(path).split("\n")] if path.is_file() else []
            self.known[folder] = {line[0].strip(): line[1].strip() for line in lines if len(line) >= 2}
        return self.known[folder].get(sound.stem) or _beside(sound)


def _beside(sound: Path) -> str | None:
    """Return the text in the file beside a sound, of the same name, if there is one."""
    if not sound.name:
        return None
    path = sound.with_suffix(".txt")
    return read_text(path).strip() or None if path.is_file() else None


def _sound(side: Side) -> Sound:
    assert side.audio is not None
    return Sound(side.audio)


def _speech(side: Side) -> Speech:
    assert side.audio is not None
    return Speech(side.text or "", side.audio)
