"""`emo-live train STAGE ...`: hands its arguments to the training package, which is an extra."""

from __future__ import annotations

import typer

from emo_live.errors import NotSupportedError

# Everything after `train`, --help too, belongs to the stages.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


def command(context: typer.Context) -> None:
    """Train the model (needs the extra "train")."""
    try:
        from emo_live.training import stages

        code = stages.main(list(context.args))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "emo_live":
            raise
        raise NotSupportedError(
            f'training needs {error.name}, which is not installed: pip install "emo-live[train]"'
        ) from error
    raise typer.Exit(code)
