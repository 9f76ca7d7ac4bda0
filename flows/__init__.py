"""When things happen: the flows `base`, `drift`, `monthly` and `rollout`, and the runner of their deployments. Thin: what a step
does stands in a folder, each of which imports only those below it and no flow.

    review/               a version's model card, for a reviewer
    gates/                what stands between a month's rows and users
    lineage/              what decided a version's bytes: recorded, and made again
    snapshots/            which rows there are, and which of them a version has learned
    learning/, runtime/   what is learned from what, pure; what a run of any flow works with
"""
