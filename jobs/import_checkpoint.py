"""Make a saved model of an OpenGait checkpoint, and register it if a name is given.

    python jobs/import_checkpoint.py FILE.pt --out runs/gaitbase
    python jobs/import_checkpoint.py FILE.pt --out runs/gaitbase --register gait --alias champion

Reads GaitSet, GaitPart, GaitGL (the ICCV network), GaitBase, DeepGaitV2 and GaitEdge; which one it
is follows from the names and shapes of the tensors. No code in the file is run: one that asks for
it is refused. Says what it assumes where the file is silent; a tensor that does not fit is named.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jobs.console as console
from raygait.errors import RegistryError


@dataclass(frozen=True)
class Options:
    """Make a saved model of an OpenGait checkpoint."""

    file: Annotated[Path, tyro.conf.Positional]
    """Checkpoint, a `.pt` file."""
    out: Path
    """Folder for the saved model; evaluate, compare and register take it."""
    embedding: Literal["default", "before_norm", "after_norm"] = "default"
    """What is compared: as the release does, or before or after the norm of the head."""
    input_size: tuple[int, int] | None = None
    """Height and width in pixels of the frames it was trained on; those of the release if left
    out."""
    subjects: Path | None = None
    """Text file with the names of the training subjects, one a line, in class order; numbered if
    left out."""
    synthesis: Literal["edge", "whole"] | None = None
    """GaitEdge only: `whole` says that the file is GaitGL-E2E, which has the same tensors."""
    mask_source: Literal["given", "predicted"] | None = None
    """GaitEdge only: silhouettes that come with the frames, as in the release, or the network's
    own."""
    max_file_mb: int = 8192
    """Larger files are refused unread."""
    register: str = ""
    """Registered model that gets a version of it; made if it does not exist."""
    alias: str = ""
    """Moved to the new version, `champion` for instance."""
    tracking_uri: str = ""
    """MLflow server or store; MLFLOW_TRACKING_URI, or sqlite:///mlflow.db here."""
    experiment: str = "raygait"
    """Experiment of the run made for the version."""


def main() -> int:
    """Parse, import, print what it is and what was assumed."""
    options = tyro.cli(Options, description=__doc__)
    if options.alias and not options.register:
        raise RegistryError(f"--alias {options.alias} needs --register NAME")
    # Imported late: torch and MLflow take seconds that --help need not wait for.
    from raygait.experiments import foreign, registry, tracking

    subjects = None
    if options.subjects is not None:
        subjects = options.subjects.read_text().split("\n")
        subjects = [name.strip() for name in subjects if name.strip()]
    switches = {"synthesis": options.synthesis, "mask_source": options.mask_source}
    imported = foreign.import_checkpoint(
        options.file,
        options.out,
        embedding=options.embedding,
        input_size_px=options.input_size,
        subjects=subjects,
        switches={name: value for name, value in switches.items() if value is not None},
        max_file_mb=options.max_file_mb,
    )
    print("\n".join(imported.to_lines()))
    if options.register:
        uri = tracking.prepare(options.tracking_uri)
        run = tracking.open_run(uri, options.experiment, f"import {options.register}")
        with tracking.closing(run):
            version = registry.register(
                options.out, options.register, run=run, alias=options.alias, tags=imported.tags
            )
        print(f"registered: {version.name} version {version.version}, load it as {version.uri}")
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
