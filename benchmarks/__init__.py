"""What the platform costs and how it compares. Each runs as `python -m benchmarks.NAME [--json]`."""
