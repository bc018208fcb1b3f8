"""How far the networks are from what the GPU could do: peak rates measured, the time they allow, the time taken."""
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.complexity import gmac
from models.build import build_gsvnet
from models.resize import grid_size
from models.steps import KeyframeStep, PropagationStep
from utils.files import write_json
from utils.text_table import Table

SIZE, SCALE, CLASSES = (1024, 2048), 0.75, 19
REPEATS = 50
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def seconds(work: Callable[[], object]) -> float:
    """Median time of `work` on the GPU, by events, after a warm-up."""
    for _ in range(5):
        work()
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def captured(work: Callable[[], object]) -> Callable[[], object]:
    """`work` as a CUDA graph: the same kernels without the time that launching them takes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def peaks() -> dict[str, float]:
    """Bytes a second of a copy (read and written); floating-point operations a second of matrix products, by type."""
    source, target = (torch.empty(2**31, dtype=torch.uint8, device="cuda") for _ in range(2))
    found = {"bytes": 2 * source.numel() / seconds(lambda: target.copy_(source))}
    for name, kind in {**TYPES, "tf32": torch.float32}.items():
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=kind) for _ in range(2))
        found[name] = 2 * 8192**3 / seconds(partial(torch.matmul, a, b))
    torch.backends.cuda.matmul.allow_tf32 = False
    return found


def layer_bytes(step: nn.Module, *inputs: Tensor) -> float:
    """Bytes that the convolutions of a forward pass read and write at least, in fp32: inputs, weights, outputs."""
    total = 0

    def count(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        total += 4 * (sum(x.numel() for x in given) + out.numel() + sum(p.numel() for p in module.parameters()))

    handles = [m.register_forward_hook(count) for m in step.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    step(*inputs)
    for handle in handles:
        handle.remove()
    return total


def measure(name: str, step: nn.Module, inputs: Sequence[Tensor], peak: dict[str, float]) -> list[dict]:
    """One row a type: least milliseconds by arithmetic and by memory, and those taken, eager and as a graph."""
    flop, size = 2e9 * gmac(step, *inputs), layer_bytes(step, *inputs)
    rows = []
    for kind, dtype in TYPES.items():
        def work(dtype: torch.dtype = dtype) -> None:
            with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32, cache_enabled=False):
                step(*inputs)

        rate = peak["tf32" if kind == "fp32" and torch.backends.cudnn.allow_tf32 else kind]
        row: dict = {"step": name, "type": kind, "gflop": flop / 1e9, "arithmetic_ms": 1e3 * flop / rate}
        row["memory_ms"] = 1e3 * size * dtype.itemsize / 4 / peak["bytes"]
        row |= {"eager_ms": 1e3 * seconds(work), "graph_ms": 1e3 * seconds(captured(work))}
        rows.append(row | {"of_roofline": max(row["arithmetic_ms"], row["memory_ms"]) / row["graph_ms"]})
    return rows


def as_table(peak: dict[str, float], rows: Sequence[dict]) -> Table:
    products = ", ".join(f"{kind} {rate / 1e12:.0f}" for kind, rate in peak.items() if kind != "bytes")
    title = f"Roofline: copy {peak['bytes'] / 1e12:.2f} TB/s; matrix products, TFLOP/s: {products}"
    head = ("step", "type", "GFLOP", "least ms by arithmetic", "by memory", "eager ms", "graph ms", "of roofline")
    times = ("arithmetic_ms", "memory_ms", "eager_ms", "graph_ms")
    cells = [
        (
            row["step"], row["type"], f"{row['gflop']:.1f}", *(f"{row[key]:.3f}" for key in times),
            f"{100 * row['of_roofline']:.0f} %",
        )
        for row in rows
    ]
    return Table(title, head, tuple(cells))


@torch.inference_mode()
def main(words: Sequence[str]) -> int:
    """Measure, print and write as JSON to the file that is the only word."""
    torch.backends.cudnn.benchmark = True
    peak = peaks()
    net = build_gsvnet(segmenter="swiftnet", flow="light", classes=CLASSES).cuda().eval()
    image = torch.randint(0, 256, (1, *SIZE, 3), dtype=torch.uint8, device="cuda")
    logits, view = (torch.randn(1, channels, *grid_size(*SIZE), device="cuda") for channels in (CLASSES, 3))
    rows = measure("keyframe", KeyframeStep(net, SCALE).cuda().eval(), [image], peak)
    rows += measure("propagation", PropagationStep(net).cuda().eval(), [logits, view, view], peak)
    table = as_table(peak, rows).console()
    print(*table, sep="\n")
    write_json(Path(words[0]), {"peaks": peak, "rows": rows, "table": table})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
