"""The plot of `make bench`. It shows the distribution of the latencies."""

from collections.abc import Sequence
from pathlib import Path

from keyturn_local.bench.latencies import Latencies


def draw(file: Path, latencies: Latencies) -> None:
    """Draw the distribution of each kind of latency into an SVG file."""
    # matplotlib is imported here, because its import takes a second.
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "keyturn"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for samples, label, style in (
        (latencies.floor, "floor: one value read, one raw apply", "k--"),
        (latencies.alone, "1,000 bindings", "C0-"),
        (latencies.quiet, "10,000 bindings", "C1-"),
        (latencies.sweeping, "10,000 bindings, swept continuously", "C2-"),
    ):
        axes.plot(*_distribution(samples), style, label=label)
    axes.set(xlabel="milliseconds from a delivery to its acknowledgement", ylabel="part of the deliveries")
    axes.set_xscale("log")
    axes.set_xticks([20, 30, 40, 60, 100, 200], ["20", "30", "40", "60", "100", "200"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _distribution(samples: Sequence[float]) -> tuple[list[float], list[float]]:
    ordered = sorted(samples)
    return [1000 * each for each in ordered], [(number + 1) / len(ordered) for number in range(len(ordered))]
