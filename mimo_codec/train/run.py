"""`mimo-codec train`: a recipe and its overrides -> a LightningCLI run and an exported codec."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mimo_codec.common.beside import import_beside
from mimo_codec.common.checks import check_integer, needs_extra, require, wrap_errors
from mimo_codec.common.errors import MimoError
from mimo_codec.common.files import open_regular

FSDP = {"class_path": "mimo_codec.train.strategy.ShardedStrategy"}
"""The strategy that `trainer.strategy: fsdp` stands for."""

TAKEN_OVER = (
    ("accumulate_grad_batches", 1, "accumulate"),
    ("gradient_clip_val", None, "clip_norm"),
    ("gradient_clip_algorithm", None, "clip_norm"),
)
"""Arguments of the Trainer that do not work here, their neutral values, and those of stages that do."""

MAX_YAML_BYTES, MAX_NODES = 2**20, 100_000
"""Of a recipe."""
MAX_CPU_PROCESSES, MIN_ROWS = 4, 8


Plan = Callable[[Any, Any, Any], str]


def shipped_recipes() -> dict[str, Path]:
    """Find the recipes that come with the package: name -> file."""
    package = Path(__file__).parent.parent
    root = package / "recipes" if (package / "recipes").is_dir() else package.parent / "recipes"
    return {path.stem: path for path in sorted(root.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """Find a recipe by its path or by the name of a shipped one; MimoError lists the known names."""
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_recipes()
    require(name in shipped, f"recipe {name!r}: no such file, nor a shipped recipe ({', '.join(shipped) or 'none'})")
    return shipped[name]


def cpu_processes(*batch_sizes: int) -> int:
    """Choose how many processes of one thread train fastest on this machine's processors, sharing each batch equally.

    They are faster than one process of as many threads. More than `MAX_CPU_PROCESSES`, or fewer than `MIN_ROWS` crops
    for each, are not worth it: every process has the optimizer's work to do.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = min(cores, MAX_CPU_PROCESSES, max(batch_sizes[0] // MIN_ROWS, 1))
    return max(n for n in range(1, most + 1) if all(size % n == 0 for size in batch_sizes))


def train(recipe: str, arguments: list[str], all_cores: bool = False, plan: Plan | None = None) -> None:
    """Train by a recipe; `arguments` override it, such as ["--data.root", "speech", "--trainer.max_steps", "100"].

    all_cores: without a GPU, and unless trainer.devices is given, start `cpu_processes` processes of the program that
    calls this, and share the recipe's batches among them.
    plan: print what this makes of the model, the data and the trainer of the configuration, and train nothing.

    Leaves checkpoints and curves below trainer.default_root_dir and the codec, ready for `from_pretrained`, in its
    folder `export`. MimoError for unknown recipes, keys and values, and when the `train` extra is missing.
    """
    path = find_recipe(recipe)
    with needs_extra("auraloss", "train"):
        import auraloss  # noqa: F401
    with needs_extra("jsonargparse", "train"):
        import jsonargparse
    with needs_extra("lightning", "train"):
        import lightning
        from lightning.pytorch.cli import LightningCLI
        from lightning.pytorch.utilities import rank_zero_info
    from mimo_codec.data.module import SpeechData
    from mimo_codec.data.sources import paths_of
    from mimo_codec.train.callbacks import SaveOnSignal, Stopped
    from mimo_codec.train.checkpoints import CHECKPOINTS, starting_point
    from mimo_codec.train.loop import Stage
    from mimo_codec.train.own import names_data_module
    from mimo_codec.train.progress import Progress

    words = (word.partition("=")[2] if word.startswith("-") else word for word in arguments)
    files = [file for file in (path, *map(Path, words)) if file.suffix in (".yaml", ".yml") and os.path.lexists(file)]
    for file in files:
        check_yaml(file)
    import_beside(files)
    own_data = names_data_module(files, arguments)

    class RecipeCLI(LightningCLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {"fit": LightningCLI.subcommands()["fit"]}

        def parse_arguments(self, parser: Any, args: Any) -> None:
            self._parser("fit").prog = f"mimo-codec train {path.stem}"  # what --help shows
            hidden = {"weights_only", *(f"trainer.{key}" for key, _, _ in TAKEN_OVER)}
            for action in self._parser("fit")._actions:
                if action.dest in hidden:
                    action.help = argparse.SUPPRESS
            super().parse_arguments(parser, args)
            seed = self.config.fit.seed_everything
            require(0 <= seed < 2**32, f"seed_everything must be from 0 to {2**32 - 1}, true or false, not {seed}")

        def before_instantiate_classes(self) -> None:
            config = self.config[self.subcommand]
            trainer = config.trainer
            config.weights_only = True  # of checkpoints to continue: tensors and plain values, no pickled objects
            for key, neutral, argument in TAKEN_OVER:
                unset = trainer[key] == neutral
                require(unset, f"trainer.{key}: stages do this themselves, set model.init_args.{argument} instead")
            data = config.data.get("init_args", {}) if own_data else config.data
            if plan:
                print(plan(config.model, data, trainer))
                raise SystemExit(0)
            sizes = {name: data[name] for name in ("batch_size", "text_batch_size") if name in data}
            is_shared = all_cores and trainer.devices == "auto" and "batch_size" in sizes
            if is_shared and _trains_on_cpu(trainer.accelerator):
                trainer.devices = cpu_processes(*sizes.values())
                for name, size in sizes.items():
                    data[name] = size // trainer.devices
            if trainer.overfit_batches and (not own_data or "distinct_batches" in data):
                # Lightning would draw other batches in every epoch
                data.distinct_batches = check_integer("trainer.overfit_batches", trainer.overfit_batches, 1)
                trainer.overfit_batches = 0
            # before other processes start, which would have to be told
            is_ours = not own_data or config.data.class_path.startswith("mimo_codec.")
            for name in ("root", "validation_root") if is_ours else ():
                for source in paths_of(data.get(name)):
                    require(os.path.exists(source), f"data.{name}: there is no {source}")
            if trainer.enable_progress_bar is None:  # without a terminal `Progress` prints lines
                trainer.enable_progress_bar = sys.stdout.isatty()
            trainer.strategy = FSDP if trainer.strategy == "fsdp" else trainer.strategy
            root = Path(trainer.default_root_dir or ".")
            folder = root / CHECKPOINTS
            if trainer.fast_dev_run:  # Lightning would save its last step all the same
                trainer.callbacks = [c for c in trainer.callbacks or [] if not c.class_path.endswith("Checkpoint")]
            for callback in trainer.callbacks or []:
                if callback.class_path.endswith("EarlyStopping") and callback.init_args.monitor.startswith("val/"):
                    callback.init_args.strict = False  # the stage checks the name; scores begin with quantizer_start
                if callback.class_path.endswith("Checkpoint"):
                    callback.init_args.dirpath = callback.init_args.dirpath or str(folder)
                    if "save_last" in callback.init_args:
                        callback.init_args.enable_version_counter = False  # last.ckpt is replaced, also in copied runs
                        folder = Path(callback.init_args.dirpath) if callback.init_args.save_last else folder
            if not trainer.fast_dev_run:  # which writes nothing
                config.ckpt_path = starting_point(config.ckpt_path, root, folder)

    for expected in (
        ".*LightningCLI's args parameter.*",  # it comes from our own command line
        ".*module.s. in eval mode at the start of training.*",  # stage 2 keeps encoder and quantizer as they are
        "Using ModelCheckpoint with manual optimization.*",  # to resume, the state after the step is what is needed
        "Precision .* is not supported by the model summary.*",
        "Total length of `list` across ranks is zero.*",  # no validation
        ".*isinstance.treespec, LeafSpec.*",  # inside Lightning
        "FSDP2-wrapped module .* returned a view.*",  # never changed in place
        "Early stopping conditioned on metric.*",  # not before quantizer_start
        "The dirpath has changed from.*",  # of a run that was moved; nothing that it needs
        "Checkpoint directory .* exists and is not empty.*",  # only of the run that goes on
        "Mismatch dtype between input and weight.*",  # of norms, in float32
    ):
        warnings.filterwarnings("ignore", message=expected)
    stopping = SaveOnSignal()
    try:
        with stopping.from_start():
            RecipeCLI(
                Stage,
                lightning.LightningDataModule if own_data else SpeechData,
                subclass_mode_model=True,
                subclass_mode_data=own_data,
                save_config_kwargs={"overwrite": True},
                seed_everything_default=0,
                parser_kwargs={"exit_on_error": False},
                trainer_defaults={"callbacks": [stopping, Progress()]},
                auto_configure_optimizers=False,  # stages have their own, and no --optimizer
                args=["fit", "--config", str(path), *arguments],
            )
    except SystemExit as left:
        if stopping.received and not isinstance(left, Stopped):
            rank_zero_info("stopped at once; nothing was saved")
        raise
    except RuntimeError as error:
        if str(error).startswith("Early stopping conditioned"):
            raise MimoError(str(error).splitlines()[0]) from None
        if int(os.environ.get("LOCAL_RANK", 0)) > 0 and re.search(_PEER_LOST, str(error)):
            raise SystemExit(1) from None  # the process that ended first says why
        raise
    except (jsonargparse.ArgumentError, ValueError) as error:
        cause = _find_mimo_error(error)
        if cause is None and not isinstance(error, jsonargparse.ArgumentError):
            raise
        raise cause or MimoError(f"{path.name}: {_reason(error)}") from None


_PEER_LOST = "Connection (closed|reset) by peer|recvValue failed|Broken pipe"
"""In what torch.distributed says when another process of the run has ended."""


_OF_CLASS = re.compile(
    r"""Parser key "(?P<key>\w+)": .*?Problem with given class_path '[^']*': (?P<reason>.*?)"""
    r"""(?: - Expected a <class 'NoneType'>.*)?$"""
)


def _reason(error: Exception) -> str:
    """What jsonargparse says is wrong, in one line, without all that could have stood in place of a class's options."""
    text = " ".join(str(error).split())
    found = _OF_CLASS.search(text)
    return f"{found['key']}: {found['reason']}" if found else text


def check_yaml(path: Path) -> None:
    """MimoError for a file that is not YAML, not a regular file, or that grows beyond MAX_NODES by its aliases."""
    import yaml

    with wrap_errors(f"{path}: cannot be read", OSError), open_regular(path) as file:
        text = file.read(MAX_YAML_BYTES + 1)
    require(len(text) <= MAX_YAML_BYTES, f"{path}: is larger than any recipe")
    with wrap_errors(f"{path}: not valid YAML", yaml.YAMLError, RecursionError, ValueError):
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        sizes: dict[int, float] = {}
        size = _expanded_size(root, sizes)
    require(size <= MAX_NODES, f"{path}: has more than {MAX_NODES} values once its aliases are expanded")


def _expanded_size(node: Any, sizes: dict[int, float]) -> float:
    """Values below a node of YAML, those of an alias counted wherever it stands; infinite where one holds itself."""
    if id(node) not in sizes:
        sizes[id(node)] = math.inf  # for the case that it is below itself
        inner = node.value if isinstance(getattr(node, "value", None), list) else []
        below = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        sizes[id(node)] = 1 + sum(_expanded_size(part, sizes) for part in below)
    return sizes[id(node)]


def _trains_on_cpu(accelerator: str) -> bool:
    """Whether Lightning will choose the CPU for this trainer.accelerator."""
    import torch

    has_accelerator = torch.cuda.is_available() or torch.backends.mps.is_available()
    return accelerator == "cpu" or (accelerator == "auto" and not has_accelerator)


def _find_mimo_error(error: BaseException | None) -> MimoError | None:
    """Find the MimoError that caused an error: jsonargparse wraps what constructors raise."""
    while error is not None and not isinstance(error, MimoError):
        error = error.__cause__ or error.__context__
    return error
