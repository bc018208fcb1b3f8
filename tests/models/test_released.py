"""Released files load unchanged; a file of another network raises one line."""
import pytest
import torch

from config.errors import UserError
from models.build import build_flow, build_gsvnet, build_segmenter
from models.released import (
    FLOWNET_FILE,
    GSVNET_FILES,
    SEGMENTER_FILES,
    load_flow,
    load_guided,
    load_segmenter,
    read_flow,
    read_propagation,
    read_segmenter,
    released_state,
)
from tests.released import fill, filled_gsvnet, released_tensors


def same(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    a, b = ours.state_dict(), theirs.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", ["swiftnet", "bisenet"])
def test_segmenter_file(weights, name):
    segmenter = build_segmenter(name=name, classes=19)
    load_segmenter(segmenter, read_segmenter(weights / SEGMENTER_FILES[name], name), name)
    assert same(segmenter, fill(build_segmenter(name=name, classes=19)))


def test_flownet_file_may_hold_more(weights):
    flow = build_flow(name="flownet")
    load_flow(flow, read_flow(weights / FLOWNET_FILE, "flownet"), "flownet")
    assert same(flow, fill(build_flow(name="flownet")))


@pytest.mark.parametrize("name", ["swiftnet", "bisenet"])
def test_gsvnet_file(weights, name):
    net = build_gsvnet(segmenter=name, flow="light", classes=19)
    file = read_propagation(weights / GSVNET_FILES[name])
    load_guided(net.guided, file)
    load_flow(net.flow, file, "light")
    filled = filled_gsvnet(name, "light")
    assert same(net.guided, filled.guided) and same(net.flow, filled.flow)


def test_saved_names_are_the_released_ones():
    state = released_state(build_gsvnet(segmenter="swiftnet", flow="light", classes=19).guided)
    assert {name: list(x.shape) for name, x in state.items()} == released_tensors()["gsv"]


def test_other_class_count_is_refused(weights):
    file = read_segmenter(weights / SEGMENTER_FILES["swiftnet"], "swiftnet")
    told = r"cityscapes-swnet-R18.pt: does not fit .* of 11 classes.*logits.conv.weight is \(19, 128, 1, 1\)"
    with pytest.raises(UserError, match=told):
        load_segmenter(build_segmenter(name="swiftnet", classes=11), file, "swiftnet")


def test_other_segmenter_is_refused(weights):
    file = read_segmenter(weights / SEGMENTER_FILES["bisenet"], "swiftnet")
    with pytest.raises(UserError, match="does not fit the keyframe segmenter swiftnet.*missing.*unexpected"):
        load_segmenter(build_segmenter(name="swiftnet", classes=19), file, "swiftnet")


def test_other_flow_network_is_refused(weights):
    file = read_propagation(weights / GSVNET_FILES["swiftnet"])
    with pytest.raises(UserError, match="flow network flownet .*--load-flow 0"):
        load_flow(build_flow(name="flownet"), file, "flownet")


def test_missing_file_message_names_the_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere.pt: not found .*--weights-dir"):
        read_segmenter(tmp_path / "nowhere.pt", "swiftnet")


def test_segmenter_file_is_not_a_propagation_checkpoint(weights):
    with pytest.raises(UserError, match="has no state_dict"):
        read_propagation(weights / SEGMENTER_FILES["swiftnet"])
