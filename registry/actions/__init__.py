"""What is done to rollouts: what a person may do to one (`steering`), how versions are put on trial by hand (`starting`), and how
any decision is carried out, a flow's or a person's (`controls`): into the book first, then to MLflow.

Knows every place that a decision must reach; not how it was reached (`analysis/`), nor who may ask for it.
"""
