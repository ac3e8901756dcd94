"""The registered model as MLflow runs it: this file is stored, not a pickle of an object.

MLflow executes the file when it loads a version (models from code); the weights and the recipe come
from the artefacts beside it, which hold no code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np


class SequenceEmbedder(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow is untyped here
    """Sequences of equal length in, embeddings [n, p, d] float32 out; any n and t.

    What goes in is what `SavedModel.embed` takes, and the version's signature names: an array of
    silhouettes, or a dictionary of named arrays.
    """

    def load_context(self, context: Any) -> None:
        """Read the weights and the recipe."""
        from raygait.recipes.saved_model import load_model

        self.saved = load_model(Path(context.artifacts["model"]))

    # MLflow takes other hints for a signature of its own: named arrays come as a dictionary.
    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> np.ndarray:
        """Embed a batch of equally long sequences."""
        del context, params  # MLflow passes them; the model has no options
        return self.saved.embed(model_input)


mlflow.models.set_model(SequenceEmbedder())
