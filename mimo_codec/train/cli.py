"""`mimo-codec train`: a recipe and its overrides -> a LightningCLI run and an exported codec."""

from __future__ import annotations

import warnings
from pathlib import Path

from mimo_codec.errors import MimoError

RECIPE_HELP = "a YAML file, or the name of a shipped recipe"


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that comes with the package."""
    package = Path(__file__).parent.parent
    root = package / "recipes" if (package / "recipes").is_dir() else package.parent / "recipes"
    return {path.stem: path for path in sorted(root.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """A file, or a shipped recipe's name -> its path; MimoError lists the known names."""
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    raise MimoError(f"recipe {name!r}: no such file, nor a shipped recipe ({', '.join(shipped) or 'none'})")


def train(recipe: str, arguments: list[str]) -> None:
    """Train by a recipe; `arguments` override it, such as ["--data.root", "speech", "--trainer.max_steps", "100"].

    Leaves checkpoints and curves below trainer.default_root_dir and the codec, ready for `from_pretrained`, in its
    folder `export`. MimoError for unknown recipes, keys and values, and when the `train` extra is missing.
    """
    path = find_recipe(recipe)
    try:
        import auraloss  # noqa: F401
        import jsonargparse
        from lightning.pytorch.cli import LightningCLI
    except ImportError as error:
        raise MimoError(f"{error.name} is not installed: pip install 'mimo-codec[train]'") from None
    from lightning import LightningModule

    from mimo_codec.train.data import SpeechData, audio_below

    class RecipeCLI(LightningCLI):
        def before_instantiate_classes(self) -> None:
            """Refuses a wrong folder before anything starts, and fixes the place of checkpoints: it does not change
            between runs, so that --ckpt_path last finds them."""
            audio_below(self.config[self.subcommand].data.root)
            trainer = self.config[self.subcommand].trainer
            for callback in trainer.callbacks or []:
                if callback.class_path.endswith("ModelCheckpoint") and callback.init_args.dirpath is None:
                    callback.init_args.dirpath = str(Path(trainer.default_root_dir or ".") / "checkpoints")

    warnings.filterwarnings(
        "ignore", message=".*LightningCLI's args parameter.*"
    )  # they come from our own command line
    try:
        RecipeCLI(
            LightningModule, SpeechData, subclass_mode_model=True, save_config_kwargs={"overwrite": True},
            seed_everything_default=0, parser_kwargs={"exit_on_error": False},
            args=["fit", "--config", str(path), *arguments],
        )  # fmt: skip
    except jsonargparse.ArgumentError as error:
        raise MimoError(f"{path.name}: {' '.join(str(error).split())}") from None
