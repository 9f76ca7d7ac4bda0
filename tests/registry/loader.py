"""The smallest script that loads a version: it answers with the weights folder it was given."""

import mlflow
from mlflow.pyfunc import PythonModel
from mlflow.pyfunc.model import PythonModelContext


class FolderNamer(PythonModel):
    folder = ""

    def load_context(self, context: PythonModelContext) -> None:
        self.folder = context.artifacts["weights"]

    def predict(self, context: PythonModelContext, model_input: list[str]) -> list[str]:
        return [f"{self.folder}: {text}" for text in model_input]


mlflow.models.set_model(FolderNamer())
