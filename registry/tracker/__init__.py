"""What MLflow keeps of the platform: versions and their two aliases (`versions`), the folders of weights behind them (`logged`), a
run for each month, step and decision (`runs`) with what the machine had to do (`system_metrics`), what a trial came to on a
version's own pages (`pages`).

The one place that knows MLflow: what it raises and how it fails is `client`'s to translate. Knows folders, figures and rollouts
as they are handed over; judges nothing, and decides nothing.
"""
