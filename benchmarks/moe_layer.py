"""What a layer of experts costs: ours, the backends of `transformers`, and the bound, which is plain dense products of equal work.

    python -m benchmarks.moe_layer [--rounds N] [--json]

128 experts of half the model's width, 12 a token, the router included for everyone, at width 256 and 512:
- 4,096 tokens, forward and backward. The bound multiplies as many rows by one expert's matrices, and the router's, forward and
  backward, and does nothing else. `dynamic` has 4 to 24 experts a token, in all as many rows; `communication` lets the experts
  of a token attend to each other in an eighth of the width.
- one token, forward without a gradient, another token each time.
All take turns in each round and ratios are taken within a round, so that a busy machine slows all of them. Seconds are the
median over the rounds, with the fastest and the slowest; CPU seconds are of all threads, and tell more where the machine is
shared. On a machine with CUDA the same in bfloat16, with the share of the peak, which is the best of large square products.

Ours has `GOMP_SPINCOUNT=1000` set as all our commands do (`evermoe.quiet`), and so have the rivals, in the same process.
`batched_mm` copies two matrices for each row: with 4,096 tokens that is 19 GB at width 256, so it takes part only with one token.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from statistics import median

from evermoe.quiet import silence

silence()

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from transformers import Qwen3MoeConfig  # noqa: E402
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock  # noqa: E402

from model.config import MoeConfig  # noqa: E402
from model.experts import Experts  # noqa: E402
from model.routing import Router  # noqa: E402

EXPERTS, ACTIVE, LEAST, MOST, TOKENS = 128, 12, 4, 24, 4096
WIDTHS = (256, 512)
BACKENDS = ("eager", "batched_mm", "grouped_mm")
OURS, BOUND = "ours", "dense bound"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
SINGLE_CALLS = 20
"""One token is over so soon that a round takes the mean of this many."""

Run = Callable[[], None]


@dataclass(frozen=True)
class Spread:
    """Median, least and most over the rounds."""

    median: float
    least: float
    most: float

    @staticmethod
    def of(values: list[float]) -> Spread:
        return Spread(median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """One contender: milliseconds of a call, and how many times as fast as it the comparison is, by wall and by CPU time."""

    width: int
    tokens: int
    contender: str
    milliseconds: Spread
    against: str
    ratio: Spread
    cpu_ratio: Spread
    peak_share: float | None = None


@dataclass(frozen=True)
class Added:
    """Milliseconds that the experts' communication adds to a call."""

    width: int
    tokens: int
    milliseconds: Spread


class Layer(nn.Module):
    """Router and experts as a decoder has them; `counts_T` fixes how many experts each token has."""

    def __init__(self, width: int, communication: int = 0, counts_T: Tensor | None = None) -> None:
        super().__init__()
        config = MoeConfig(
            hidden_size=width,
            num_experts=EXPERTS,
            num_experts_per_tok=ACTIVE,
            min_experts_per_tok=None if counts_T is None else LEAST,
            max_experts_per_tok=None if counts_T is None else MOST,
            moe_intermediate_size=width // 2,
            expert_communication=communication,
        )
        self.router, self.experts, self.counts_T = Router(config), Experts(config), counts_T
        self.router.reset(config.initializer_range)
        self.experts.reset(config.initializer_range)
        if counts_T is not None:
            nn.init.ones_(self.router.threshold)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) to (T, D)."""
        routes = self.router(x_TD)
        if self.counts_T is not None:
            active_TK = torch.arange(MOST, device=x_TD.device) < self.counts_T[:, None]
            routes = replace(routes, active_TK=active_TK, weight_TK=routes.weight_TK * active_TK)
        return self.experts(x_TD, routes)


class Rival(nn.Module):
    """The layer of Qwen3-MoE with one of the backends of `transformers`."""

    def __init__(self, width: int, backend: str) -> None:
        super().__init__()
        config = Qwen3MoeConfig(
            hidden_size=width,
            num_experts=EXPERTS,
            num_experts_per_tok=ACTIVE,
            moe_intermediate_size=width // 2,
            norm_topk_prob=True,
        )
        config._experts_implementation = backend
        self.block = Qwen3MoeSparseMoeBlock(config)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=config.initializer_range)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) to (T, D)."""
        return self.block(x_TD[None])[0]


def dynamic_counts(seed: int) -> Tensor:
    """Experts of each token, from `LEAST` to `MOST` and `ACTIVE` on average, exactly."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(LEAST, ACTIVE + 1, (TOKENS // 2,), generator=generator)
    return torch.cat([half, 2 * ACTIVE - half])[torch.randperm(TOKENS, generator=generator)].to(DEVICE)


def training(layer: nn.Module, x_TD: Tensor, grad_TD: Tensor) -> Run:
    """Forward and backward, gradients made anew."""

    def run() -> None:
        layer.zero_grad()
        x_TD.grad = None
        layer(x_TD).backward(grad_TD)

    return run


def decoding(layer: nn.Module, tokens: Iterator[Tensor]) -> Run:
    """Forward of single tokens without a gradient."""

    @torch.no_grad()
    def run() -> None:
        for _ in range(SINGLE_CALLS):
            layer(next(tokens))

    return run


def dense(width: int) -> Run:
    """Forward and backward of plain products that multiply as much as the layer with `TOKENS` tokens."""
    rows, half = TOKENS * ACTIVE, width // 2
    shapes = [(TOKENS, width, EXPERTS), (rows, width, 2 * half), (rows, half, width)]
    pairs = [
        [torch.randn(size, device=DEVICE, dtype=DTYPE, requires_grad=True) for size in ((m, k), (k, n))]
        for m, k, n in shapes
    ]
    grads = [torch.randn(m, n, device=DEVICE, dtype=DTYPE) for m, _, n in shapes]

    def run() -> None:
        for (rows_MK, weight_KN), grad_MN in zip(pairs, grads, strict=True):
            rows_MK.grad = weight_KN.grad = None
            (rows_MK @ weight_KN).backward(grad_MN)

    return run


def layer_flops(width: int) -> float:
    """Of the products, forward and backward, with `TOKENS` tokens."""
    return 3 * 2 * TOKENS * (width * EXPERTS + ACTIVE * (width * width + width * width // 2))


def peak_flops() -> float:
    """Floating-point operations a second of the best of several large square products."""
    size = 8192
    left, right = (torch.randn(size, size, device=DEVICE, dtype=DTYPE) for _ in range(2))
    seconds = [clocked(lambda: left @ right)[0] for _ in range(20)]
    return 2 * size**3 / min(seconds)


def clocked(run: Run | Callable[[], object]) -> tuple[float, float]:
    """Seconds and CPU seconds of a run."""
    began, cpu = time.perf_counter(), time.process_time()
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, time.process_time() - cpu


def in_turns(contenders: dict[str, Run], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Every contender once a round, after one that does not count."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            took = clocked(run)
            if number:
                times[name].append(took)
    return times


def rows_of(
    times: dict[str, list[tuple[float, float]]], width: int, tokens: int, against: str, calls: int, peak: float | None
) -> list[Row]:
    """The table of one comparison."""
    found = []
    for name, mine in times.items():
        wall, cpu = ([theirs[k] / took[k] for theirs, took in zip(times[against], mine, strict=True)] for k in (0, 1))
        spread = Spread.of([1000 * took[0] / calls for took in mine])
        share = layer_flops(width) / (spread.median / 1000) / peak if peak and tokens > 1 else None
        found.append(Row(width, tokens, name, spread, against, Spread.of(wall), Spread.of(cpu), share))
    return found


def added(times: dict[str, list[tuple[float, float]]], width: int, tokens: int, calls: int) -> Added:
    """By communication, over ours without it in the same round."""
    pairs = zip(times["ours, communication"], times[OURS], strict=True)
    return Added(width, tokens, Spread.of([1000 * (more[0] - less[0]) / calls for more, less in pairs]))


def measure(width: int, rounds: int, peak: float | None) -> tuple[list[Row], list[Added]]:
    """Both comparisons at one width."""
    torch.manual_seed(0)

    def placed(layer: nn.Module) -> nn.Module:
        return layer.to(DEVICE, DTYPE).eval()

    layers: dict[str, nn.Module] = {
        OURS: placed(Layer(width)),
        "ours, communication": placed(Layer(width, width // 8)),
    }
    rivals: dict[str, nn.Module] = {backend: placed(Rival(width, backend)) for backend in BACKENDS}
    tokens_TD = torch.randn(64, width, device=DEVICE, dtype=DTYPE)
    singles = {name: decoding(layer, endless(tokens_TD)) for name, layer in (layers | rivals).items()}
    times = in_turns(singles, 4 * rounds)
    best = min(BACKENDS, key=lambda name: median(took[0] for took in times[name]))
    rows, costs = rows_of(times, width, 1, best, SINGLE_CALLS, peak), [added(times, width, 1, SINGLE_CALLS)]

    x_TD = torch.randn(TOKENS, width, device=DEVICE, dtype=DTYPE, requires_grad=True)
    grad_TD = torch.randn(TOKENS, width, device=DEVICE, dtype=DTYPE)
    del rivals["batched_mm"]
    layers["ours, dynamic"] = placed(Layer(width, counts_T=dynamic_counts(seed=0)))
    many = {name: training(layer, x_TD, grad_TD) for name, layer in (layers | rivals).items()}
    times = in_turns({BOUND: dense(width), **many}, rounds)
    rows += rows_of(times, width, TOKENS, BOUND, 1, peak)
    return rows, [*costs, added(times, width, TOKENS, 1)]


def endless(tokens_TD: Tensor) -> Iterator[Tensor]:
    """Single tokens, over and over."""
    while True:
        yield from tokens_TD.split(1)


def print_rows(rows: list[Row], costs: list[Added]) -> None:
    """Both tables of each width."""
    for (width, tokens, against), table in groupby(rows, key=lambda row: (row.width, row.tokens, row.against)):
        what = "forward of one token" if tokens == 1 else f"forward and backward of {tokens:,} tokens"
        print(f"\nwidth {width}, {what}; speed against {against}, by wall and by CPU time")
        for row in table:
            share = "" if row.peak_share is None else f"{row.peak_share:8.1%} of peak"
            took, wall, cpu = row.milliseconds, row.ratio, row.cpu_ratio
            print(
                f"  {row.contender:<20}{took.median:9.2f} ms ({took.least:.2f} to {took.most:.2f})"
                f"{wall.median:8.2f} ({wall.least:.2f} to {wall.most:.2f})"
                f"{cpu.median:8.2f} ({cpu.least:.2f} to {cpu.most:.2f}){share}"
            )
    print()
    for cost in costs:
        took = cost.milliseconds
        print(
            f"communication adds {took.median:.2f} ms ({took.least:.2f} to {took.most:.2f}) "
            f"at width {cost.width} with {cost.tokens:,} token{'s' if cost.tokens > 1 else ''}"
        )


def main() -> None:
    """Measure every width and show it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="how often every contender takes its turn")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="of the model")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    peak = peak_flops() if DEVICE == "cuda" else None
    rows, costs = [], []
    for width in options.widths:
        found, cost = measure(width, options.rounds, peak)
        rows += found
        costs += cost
    settings = {
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else DEVICE,
        "dtype": str(DTYPE).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "GOMP_SPINCOUNT": os.environ["GOMP_SPINCOUNT"],
        "rounds": options.rounds,
        "load_average_before": load,
        "peak_tflops": None if peak is None else peak / 1e12,
    }
    if options.json:
        print(json.dumps(settings | {"rows": [asdict(row) for row in rows], "added": [asdict(cost) for cost in costs]}))
        return
    print(", ".join(f"{name} {value}" for name, value in settings.items() if value is not None))
    print_rows(rows, costs)


if __name__ == "__main__":
    main()
