"""The native segmenters against the numbers of their authors' programs."""
import json
from pathlib import Path

import pytest
import torch

from config.camvid import CAMVID
from config.command_line import parse
from config.errors import UserError
from models.build import build_segmenter
from models.fold import folded
from models.gsvnet import segment
from models.load import networks_for_inference, networks_for_training
from models.losses import DDRNetLoss, PIDNetLoss, SegmenterLoss
from models.released import load_segmenter, read_segmenter
from models.resize import half_pixel
from tests.released import arrays_of, fill

PEERS = Path(__file__).resolve().parents[3] / "shared" / "peers"
published = pytest.mark.skipif(not PEERS.is_dir(), reason="the fixtures of further segmenters are not here")
FILES = {"pidnet-s": "pidnet_s", "ddrnet23-slim": "ddrnet23_slim", "bisenet-xception39": "xception39",
         "bisenetv2": "bisenetv2"}
VARIANTS = {"pidnet-m": "pidnet_m", "pidnet-l": "pidnet_l", "ddrnet23": "ddrnet23"}
OUTPUTS = {  # in the order of `training_logits`
    "pidnet": ("logits", "aux_p", "aux_d"), "ddrnet2": ("logits", "aux"), "bisenet-": ("logits", "aux0", "aux1"),
    "bisenetv": ("logits", "aux2", "aux3", "aux4", "aux5_4"),
}


def outputs_of(name: str) -> tuple[str, ...]:
    return next(outputs for start, outputs in OUTPUTS.items() if name.startswith(start))


def described(name: str) -> dict:
    return json.loads((PEERS / f"{ {**FILES, **VARIANTS}[name]}.json").read_text())


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare with a stored array, of which every n-th channel and pixel may be left."""
    if found.shape != expected.shape:
        channels, pixels = (-(-a // b) for a, b in zip(found.shape[1:3], expected.shape[1:3]))
        found = found[:, ::channels, ::pixels, ::pixels]
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@published
@pytest.mark.parametrize("name", [*FILES, *VARIANTS])
def test_tensors_are_the_published_ones(name):
    network, file = build_segmenter(name=name, classes=19), described(name)
    assert {key: list(x.shape) for key, x in network.state_dict().items()} == file["tensors"]
    unused = {id(x) for part in network.training_only() for x in part.parameters()}
    assert sum(x.numel() for x in network.parameters()) == file["parameters_with_training_heads"]
    assert sum(x.numel() for x in network.parameters() if id(x) not in unused) == file["parameters"]


@published
@pytest.mark.parametrize("image", ["", "_c", pytest.param("_b", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FILES)
def test_outputs(name, image):
    numbers, network = arrays_of(PEERS / f"{FILES[name]}_seed0.npz"), fill(build_segmenter(name=name, classes=19))
    with torch.no_grad():
        logits, found = network(numbers[f"image{image}"]), network.training_logits(numbers[f"image{image}"])
    if name == "bisenetv2":
        close(logits, numbers[f"logits_eighth{image}"])
        logits = half_pixel(logits, tuple(found[0].shape[-2:]))
    assert torch.equal(logits, found[0])
    for output, x in zip(outputs_of(name), found, strict=True):
        if f"{output}{image}" in numbers:
            close(x, numbers[f"{output}{image}"])


@published
@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_outputs_of_variants(name):
    numbers, network = arrays_of(PEERS / "variants_seed0.npz"), fill(build_segmenter(name=name, classes=19))
    with torch.no_grad():
        found = network.training_logits(numbers["image"])
    for output, x in zip(outputs_of(name), found, strict=True):
        close(x, numbers[f"{VARIANTS[name]}_{output}"])


@published
@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_training_step(name):
    numbers, network = arrays_of(PEERS / f"{FILES[name]}_seed0.npz"), fill(build_segmenter(name=name, classes=19))
    network = network.double().train()
    for part in network.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    outputs = network.training_logits(numbers["train_image"].double())
    objective = sum(x.square().mean() for x in outputs)
    assert objective.item() == pytest.approx(numbers["train_objective"].item(), rel=1e-6)
    objective.backward()
    tensors, state = described(name)["tensors"], dict(network.named_parameters()) | dict(network.named_buffers())
    norms = [state[key].norm().item() for key in tensors if key.endswith(("running_mean", "running_var"))]
    assert norms == pytest.approx(numbers["train_running_norms"].tolist(), rel=1e-6)
    gradients = [state[key].grad.norm().item() for key in tensors if isinstance(state[key], torch.nn.Parameter)]
    largest = max(numbers["train_grad_norms"].tolist())
    assert gradients == pytest.approx(numbers["train_grad_norms"].tolist(), rel=1e-5, abs=1e-9 * largest)


@pytest.mark.parametrize("name", [*FILES, *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS)])
@pytest.mark.parametrize("size", [(90, 160), (33, 47), (8, 8)])
def test_any_size_and_folded(name, size):
    network, image = fill(build_segmenter(name=name, classes=19)), torch.randn(2, 3, *size)
    with torch.no_grad():
        logits, alone, fast = network(image), network(image[:1]), folded(network)(image)
    assert logits.shape == (2, 19, *(-(-side // 8) for side in size)) and logits.isfinite().all()
    for other in (fast, torch.cat([alone, logits[1:]])):
        assert (other - logits).abs().max() <= 1e-4 * logits.abs().max()


WEIGHTS = (0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023, 0.9539, 0.9843, 1.1116, 0.9037,
           1.0865, 1.0955, 1.0865, 1.1529, 1.0507)


@published
@pytest.mark.parametrize("keep", [131072, 26000, 500])
@pytest.mark.parametrize("name, loss, parts", [
    ("pidnet_s", PIDNetLoss, ("total", "semantic", "boundary", "boundary_aware")),
    ("ddrnet23_slim", DDRNetLoss, ("total", "auxiliary", "main")),
])
def test_losses(name, loss, parts, keep):
    numbers = arrays_of(PEERS / f"{name}_seed0.npz")
    pidnet = name == "pidnet_s"
    names = ("logits", "aux_p", "aux_d") if pidnet else ("logits", "aux")
    main, *auxiliary = outputs = [numbers[f"loss_{x}"].double().requires_grad_() for x in names]
    more = (numbers["edge"],) if pidnet else ()
    losses = loss(WEIGHTS, ignore=255, keep=keep).double()(outputs, numbers["labels"].long(), *more)
    assert [losses[part].item() for part in parts] == pytest.approx(numbers[f"loss_keep{keep}"].tolist(), rel=1e-5)
    losses["total"].backward()
    order = [auxiliary[0], main, *auxiliary[1:]]
    norms = numbers[f"loss_keep{keep}_grad_norms"].tolist()
    assert [x.grad.norm().item() for x in order] == pytest.approx(norms, rel=1e-4)


def test_loss_without_labelled_pixels_is_zero_but_for_boundaries():
    outputs = [torch.randn(1, channels, 4, 4) for channels in (19, 19, 1)]
    nothing = torch.full((1, 32, 32), 255)
    losses = PIDNetLoss(WEIGHTS, ignore=255)(outputs, nothing, torch.zeros(1, 32, 32))
    assert (losses["semantic"], losses["boundary"], losses["boundary_aware"]) == (0, 0, 0)


@published
@pytest.mark.parametrize("kept", [32, 440, 100_000])
def test_loss_of_bisenet_on_xception39(kept):
    numbers = arrays_of(PEERS / "xception39_seed0.npz")
    outputs = [numbers[f"loss_{x}"].double().requires_grad_() for x in ("logits", "aux0", "aux1")]
    label = numbers["labels_eighth"].long().repeat_interleave(8, 1).repeat_interleave(8, 2)
    criterion = SegmenterLoss(ignore=255, ohem=True, label_stride=8)
    assert kept != 32 or criterion.share * numbers["labels_eighth"].numel() == kept
    criterion.share = kept / numbers["labels_eighth"].numel()
    loss = criterion(outputs, label)["total"]
    assert loss.item() == pytest.approx(numbers[f"loss_kept{kept}"].sum().item(), rel=1e-6)
    loss.backward()
    norms = numbers[f"loss_kept{kept}_grad_norms"].tolist()
    assert [x.grad.norm().item() for x in outputs] == pytest.approx(norms, rel=1e-5)


@published
@pytest.mark.parametrize("threshold", [0.7, 0.02])
def test_loss_of_bisenetv2(threshold):
    numbers = arrays_of(PEERS / "bisenetv2_seed0.npz")
    label = numbers["labels"].long()
    logits = half_pixel(numbers["loss_logits_eighth"].double(), tuple(label.shape[1:])).requires_grad_()
    criterion = SegmenterLoss(ignore=255, ohem=True, threshold=threshold, of_labelled=True)
    loss = criterion([logits], label)["total"]
    assert loss.item() == pytest.approx(numbers[f"loss_thresh{threshold}"].item(), rel=1e-6)
    loss.backward()
    assert logits.grad.norm().item() == pytest.approx(numbers[f"loss_thresh{threshold}_grad_norm"].item(), rel=1e-5)


CRITERION = torch.ones(19)
FORMATS = {  # as the authors' programs write them
    "flat, with losses": lambda x: {**{f"model.{k}": v for k, v in x.items()}, "loss.criterion.weight": CRITERION},
    "checkpoint": lambda x: {"epoch": 3, "best_mIoU": 0.7, "optimizer": {}, "state_dict": {
        **{f"model.{k}": v for k, v in x.items()}, "sem_loss.criterion.weight": CRITERION,
        "sb_loss.criterion.weight": CRITERION}},
    "under model": lambda x: {"model": x, "optimizer": {}, "epoch": 139, "iteration": 140_000},
    "plain": lambda x: x,
}


@pytest.mark.parametrize("name, layout", [
    ("pidnet-s", "flat, with losses"), ("pidnet-s", "checkpoint"), ("ddrnet23-slim", "flat, with losses"),
    ("bisenet-xception39", "under model"), ("bisenetv2", "plain"),
])
def test_published_files_load_as_they_are(tmp_path, name, layout):
    trained, network = fill(build_segmenter(name=name, classes=19)), build_segmenter(name=name, classes=19)
    torch.save(FORMATS[layout](trained.state_dict()), tmp_path / "file.pt")
    load_segmenter(network, read_segmenter(tmp_path / "file.pt", name), name)
    assert all(torch.equal(x, trained.state_dict()[key]) for key, x in network.state_dict().items())


@pytest.mark.parametrize("name, layout, count", [
    ("pidnet-s", lambda x: {"state_dict": x, "epoch": 100}, 302), ("ddrnet23-slim", lambda x: x, 0),
    ("bisenetv2", lambda x: {part: {k.removeprefix(f"{part}."): v for k, v in x.items() if k.startswith(part)}
                             for part in ("detail", "segment")}, 0),
])
def test_training_starts_from_the_authors_imagenet_files(tmp_path, name, layout, count):
    """Extra tensors are ignored; heads and what else ImageNet does not cover start as they were built."""
    trained = fill(build_segmenter(name=name, classes=19))
    covered = {id(x) for part in trained.pretrained_modules() for x in part.state_dict(keep_vars=True).values()}
    tensors = {k: x.detach() for k, x in trained.state_dict(keep_vars=True).items() if id(x) in covered}
    assert count in (0, len(tensors)) and not any("head" in k or k.startswith("final") for k in tensors)
    extra = {} if name == "bisenetv2" else {"linear.weight": torch.ones(1000, 8), "down5.0.conv1.weight": torch.ones(1)}
    torch.save(layout({**tensors, **extra}), tmp_path / "imagenet.pth")
    words = ["--stage", "segnet", "--segnet", name, "--segnet-weights", str(tmp_path / "imagenet.pth")]
    network = networks_for_training(parse(words), None).segmenter.state_dict()
    assert all(torch.equal(x, network[k]) for k, x in tensors.items())
    assert not any(torch.equal(x, network[k]) for k, x in trained.state_dict().items()
                   if k not in tensors and k.endswith("conv1.weight"))
    torch.save(layout({**dict(list(tensors.items())[5:]), **extra}), tmp_path / "imagenet.pth")
    with pytest.raises(UserError, match="imagenet.pth: does not fit the part of the keyframe segmenter"):
        networks_for_training(parse(words), None)


@pytest.mark.parametrize("name, other", [("pidnet-s", "ddrnet23-slim"), ("bisenet-xception39", "bisenet")])
def test_file_of_another_network_is_refused(tmp_path, name, other):
    network = build_segmenter(name=name, classes=19)
    before = {key: x.clone() for key, x in network.state_dict().items()}
    torch.save(FORMATS["flat, with losses"](build_segmenter(name=other, classes=19).state_dict()), tmp_path / "file.pt")
    with pytest.raises(UserError, match=f"file.pt: does not fit the keyframe segmenter {name}"):
        load_segmenter(network, read_segmenter(tmp_path / "file.pt", name), name)
    assert all(torch.equal(x, before[key]) for key, x in network.state_dict().items())


def test_classes_of_pidnets_own_camvid_file_are_put_in_order(tmp_path):
    """The file's: bicyclist building car pole fence pedestrian road sidewalk sign sky tree."""
    network = fill(build_segmenter(name="pidnet-s", classes=11))
    torch.save({f"model.{k}": x for k, x in network.state_dict().items()}, tmp_path / "PIDNet_S_Camvid_Test.pt")
    words = ["--segnet", "pidnet-s", "--segnet-weights", str(tmp_path / "PIDNet_S_Camvid_Test.pt"), "--evaluate", "1"]
    segmenter = networks_for_inference(parse([*words, "--method", "per-frame", "--dataset", "camvid"])).segmenter.eval()
    assert segmenter.names == CAMVID.classes
    frame = torch.randint(0, 256, (1, 3, 64, 96)).float()
    with torch.no_grad():
        theirs = network.eval()(segmenter.normalise(frame))
        ours = segment(segmenter, frame)
    torch.testing.assert_close(ours, theirs[:, [9, 1, 3, 6, 7, 10, 8, 4, 2, 5, 0]])
