"""Label maps of a video from exported graphs, without PyTorch: numpy, onnxruntime and Pillow, for DIS also OpenCV.

python onnx_numpy.py [--int8|--fp16] EXPORTED OUTPUT FRAME [FRAME ...]    frames in their order: pictures, or .npy
(H,W,3) uint8 RGB; --int8 and --fp16 run the graphs that were exported with this --precision, where there are some
"""
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

try:
    import cv2
except ImportError:  # it computes DIS, which only some exports need
    cv2 = None


def read(path: Path) -> np.ndarray:
    """(H,W,3) uint8 RGB."""
    return np.load(path) if path.suffix == ".npy" else np.asarray(Image.open(path).convert("RGB"))


def between(points: int, pixels: int) -> np.ndarray:
    """(pixels,points): weights of a bilinear upsampling along one side, corners aligned."""
    position = np.linspace(0, points - 1, pixels)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(points))).astype(np.float32)


def look_of(image: np.ndarray, side: int) -> np.ndarray:
    """Frame (H,W,3) -> the grey picture of it that DIS compares."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    shrink = min(1, side / min(grey.shape))
    height, width = (max(1, round(length * shrink)) for length in grey.shape)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)


def flow_between(previous: np.ndarray, look: np.ndarray, settings: dict, rows: int, columns: int) -> np.ndarray:
    """Two looks -> flow (1,2,rows,columns) from the second to the first, in pixels of the grid."""
    dis = cv2.DISOpticalFlow.create(settings["opencv_preset"])
    dis.setFinestScale(settings["finest_scale"])
    flow = dis.calc(look, previous, None)
    flow *= np.float32([(columns - 1) / (flow.shape[1] - 1), (rows - 1) / (flow.shape[0] - 1)])
    way = cv2.INTER_AREA if rows < flow.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(flow, (columns, rows), interpolation=way).transpose(2, 0, 1)[None]


def file_of(graph: dict, precision: str) -> str:
    """The file of a graph in that precision, or in float32 if it was not exported in it."""
    return graph.get("variants", {}).get(precision, graph)["onnx"]


def main(exported: Path, output: Path, frames: list[Path], precision: str = "fp32") -> None:
    model = json.loads((exported / "model.json").read_text())
    if precision != "fp32" and not any(precision in each.get("variants", {}) for each in model["graphs"].values()):
        sys.exit(f"{exported}: was not exported with --precision {precision}")
    files = [file_of(model["graphs"][name], precision) for name in ("view", "keyframe", "propagation")]
    view_of, keyframe, propagation = (
        onnxruntime.InferenceSession(str(exported / file), providers=["CPUExecutionProvider"]) for file in files
    )
    (height, width), (rows, columns) = model["frame"]["size"], model["grid"]["size"]
    down, across = between(rows, height), between(columns, width)
    ids = np.array([each["label_id"] for each in model["classes"]], np.uint8)
    output.mkdir(parents=True, exist_ok=True)
    classical = model["flow"] if isinstance(model["flow"], dict) else None
    logits = previous = None  # of the previous frame, and its view or, for DIS, its look
    for number, path in enumerate(frames):
        image = read(path)[None]  # (1,H,W,3)
        if image.shape[1:3] != (height, width):
            found = f"{image.shape[2]} x {image.shape[1]} pixels"
            sys.exit(f"{path}: has {found}, the export is for {width} x {height}; see --export-size")
        view = view_of.run(None, {"image": image})[0]  # (1,3,h,w)
        current = look_of(image[0], classical["side"]) if classical else view
        if number % model["keyframe"]["interval"] == 0:
            logits = keyframe.run(None, {"image": image})[0]  # (1,C,h,w)
        elif classical:
            flow = flow_between(previous, current, classical, rows, columns)
            logits = propagation.run(None, {"previous_logits": logits, "flow": flow, "view": view})[0]
        else:
            logits = propagation.run(None, {"previous_logits": logits, "previous_view": previous, "view": view})[0]
        previous = current
        labels = (down @ logits[0] @ across.T).argmax(axis=0)  # (C,H,W) -> (H,W)
        Image.fromarray(ids[labels]).save(output / f"{path.stem}.png")


if __name__ == "__main__":
    flags, paths = ([word for word in sys.argv[1:] if word.startswith("--") == flag] for flag in (True, False))
    if len(paths) < 3 or len(flags) > 1 or not {*flags} <= {"--int8", "--fp16"}:
        sys.exit(__doc__)
    exported, output, *frames = map(Path, paths)
    main(exported, output, frames, *(flag[2:] for flag in flags))
