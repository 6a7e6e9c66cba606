import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.encoders.weights import load_weights, save_weights
from models.errors import ModelError


def network(seed, width=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))


def test_equal_weights_give_equal_bytes_whatever_the_memory_format(tmp_path):
    save_weights(network(0), tmp_path / "a.safetensors")
    save_weights(network(0).to(memory_format=torch.channels_last), tmp_path / "b.safetensors")
    save_weights(network(1), tmp_path / "c.safetensors")
    contents = [(tmp_path / f"{name}.safetensors").read_bytes() for name in "abc"]
    assert contents[0] == contents[1] != contents[2]


def test_loaded_weights_equal_the_saved_ones_and_keep_channels_last(tmp_path):
    saved, loaded = network(0), network(1).to(memory_format=torch.channels_last)
    save_weights(saved, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    for a, b in zip(saved.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert loaded[0].weight.is_contiguous(memory_format=torch.channels_last)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("kind", ["torch", "pickle", "truncated", "garbage", "empty"])
def test_anything_but_whole_safetensors_is_refused(tmp_path, kind):
    path = tmp_path / "weights.safetensors"
    save_weights(network(0), path)
    if kind == "torch":
        torch.save({"0.weight": Bomb()}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        whole = path.read_bytes()
        path.write_bytes({"truncated": whole[:-9], "garbage": b"x" * 64, "empty": b""}[kind])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        load_weights(network(0), path)


def test_missing_file_is_explained(tmp_path):
    with pytest.raises(ModelError, match="the weights file .* does not exist"):
        load_weights(network(0), tmp_path / "none.safetensors")


def test_refusals_name_the_tensor_and_leave_the_model_as_it_was(tmp_path):
    model = network(0)
    before = [tensor.clone() for tensor in model.state_dict().values()]
    path = tmp_path / "w.safetensors"

    save_weights(network(1, width=5), path)
    with pytest.raises(ModelError, match=r"'0.weight' is float32 \[5, 3, 3, 3\]"):
        load_weights(model, path)

    state = {name: tensor.clone() for name, tensor in network(1).state_dict().items()}
    save_file({name: t for name, t in state.items() if name != "1.bias"}, path)
    with pytest.raises(ModelError, match=r"no tensor '1\.bias'"):
        load_weights(model, path)

    save_file(state | {"extra": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="'extra'"):
        load_weights(model, path)

    after = model.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
