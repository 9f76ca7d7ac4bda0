"""What is learned, from what, and in which order: rows to examples, the base's training, an update's trainings (docs/learning.md).

Rows and parameters in, models and figures out. Knows no Prefect, no MLflow and no event log: a flow, a benchmark, a DVC stage
and `evermoe reproduce` get the same from it. How a network learns is `model/`'s.
"""
