"""The code that MLflow runs to load a registered version: `mlflow.pyfunc.load_model("models:/evermoe@champion")`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from pydantic import BaseModel


class Answered(BaseModel):
    """A label and its probability."""

    label: str
    score: float


class Labeller(PythonModel):
    """Takes texts, gives the label and the score of each."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the safetensors folder; nothing is unpickled."""
        from model import from_pretrained  # here: MLflow runs this file at each registration too

        self.model = from_pretrained(Path(context.artifacts["weights"]))

    def predict(
        self, context: PythonModelContext, model_input: list[str], params: dict[str, Any] | None = None
    ) -> list[Answered]:
        """Answer each text."""
        answers = self.model.classify(list(model_input))
        return [Answered(label=answer.label, score=answer.scores[answer.label]) for answer in answers]


mlflow.models.set_model(Labeller())
