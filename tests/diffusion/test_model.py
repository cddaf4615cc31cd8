from __future__ import annotations

import hashlib
import json
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from medsr.card import ModelCard, NetworkSpec, read_card
from medsr.diffusion.model import load_model, named_tensors, save_model, tensor_sha256
from medsr.diffusion.network import build_networks
from medsr.errors import DeviceError, JobError, ModelError

try:
    import resource
except ImportError:  # Windows
    resource = None

SPEC = NetworkSpec(width=8, blocks_top=2, blocks_bottom=1, embedding=16)
CARD = ModelCard(name="tiny", version="1", network=SPEC, has_sampler=True)


def random_tensors(card: ModelCard = CARD, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights unlike any initialisation, representable in float16."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (0.1 * torch.randn(t.shape, generator=generator)).half().float()
        for name, t in named_tensors(build_networks(card)).items()
    }


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_model(path, CARD, random_tensors())
    return path


def rewrite(path, change_tensors=lambda t: t, change_card=lambda c: c):
    """Write the file again by safetensors alone, with other tensors or another card; the stored sha256 stays."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        card = json.loads(file.metadata()["medsr"])
    save_file(change_tensors(tensors), path, metadata={"medsr": json.dumps(change_card(card))})


def test_what_is_saved_is_what_is_loaded(saved):
    expected = random_tensors()
    model = load_model(saved)
    networks = {"mean": model.mean, "variance": model.variance, "sampler": model.sampler}
    found = named_tensors(networks)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert model.device == torch.device("cpu")
    for network in networks.values():
        assert not network.training
        assert all(p.dtype == torch.float32 and not p.requires_grad and not p.is_meta for p in network.parameters())


def test_the_loaded_network_computes_what_the_saved_one_did(saved):
    networks = build_networks(CARD)
    for name, network in networks.items():
        prefix = f"{name}."
        state = {k.removeprefix(prefix): t for k, t in random_tensors().items() if k.startswith(prefix)}
        network.load_state_dict(state)
    mean, loaded = networks["mean"], load_model(saved).mean
    images = torch.randn(2, mean.enter.in_channels // 4, 12, 8)
    conditions = torch.randn(2, mean.embed[0].in_features)
    assert torch.equal(loaded(images, conditions), mean(images, conditions))


def test_the_file_is_float16_safetensors_with_a_card_and_its_hash(saved):
    """Read with safetensors and numpy alone."""
    card = read_card(saved)
    digest = hashlib.sha256()
    with safe_open(saved, "np") as file:
        names = sorted(file.keys())
        for name in names:
            tensor = file.get_tensor(name)
            assert tensor.dtype == np.float16
            digest.update(tensor.tobytes())
    assert {name.split(".")[0] for name in names} == {"mean", "variance", "sampler"}
    assert card.sha256 == digest.hexdigest()
    assert card == CARD.model_copy(update={"sha256": card.sha256})


def test_saving_returns_the_card_and_the_same_weights_give_the_same_bytes(tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    card = save_model(one, CARD, random_tensors())
    assert card == read_card(one)
    save_model(two, CARD, dict(reversed(random_tensors().items())))
    assert one.read_bytes() == two.read_bytes()


def test_the_hash_follows_every_value_and_the_order_of_names():
    tensors = random_tensors()
    name = next(iter(tensors))
    other = {**tensors, name: tensors[name] + 1}
    assert tensor_sha256(tensors) == tensor_sha256(dict(reversed(tensors.items())))
    assert tensor_sha256(tensors) != tensor_sha256(other)


def test_loading_leaves_the_random_stream_alone(saved):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    load_model(saved)
    assert torch.equal(torch.rand(3), expected)


def test_a_mean_alone_is_a_model(tmp_path):
    path = tmp_path / "mean.safetensors"
    card = CARD.model_copy(update={"has_sampler": False})
    save_model(path, card, {k: t for k, t in random_tensors(card).items() if k.startswith("mean.")})
    model = load_model(path)
    assert model.variance is None
    assert model.sampler is None


def test_mean_and_variance_without_sampler(tmp_path):
    path = tmp_path / "two.safetensors"
    card = CARD.model_copy(update={"has_sampler": False})
    save_model(path, card, random_tensors(card))
    model = load_model(path)
    assert model.variance is not None
    assert model.sampler is None


class TestRefused:
    """bad-input rows of weights: a ModelError (exit code 5), before any network is built."""

    @pytest.fixture(autouse=True)
    def nothing_gets_weights(self, monkeypatch):
        def fail(*args, **kwargs):
            pytest.fail("a network was given weights from a bad file")

        monkeypatch.setattr(torch.nn.Module, "load_state_dict", fail)

    def refuse(self, path, match):
        with pytest.raises(ModelError, match=match) as caught:
            load_model(path)
        assert caught.value.exit_code == 5
        assert "\n" not in str(caught.value)

    def test_changed_weight(self, saved):
        def change(tensors):
            tensors["mean.leave.bias"][0] += 1
            return tensors

        rewrite(saved, change)
        self.refuse(saved, "sha256 .* their card says .* Copy it again")

    def test_one_flipped_bit(self, saved):
        data = bytearray(saved.read_bytes())
        data[-5] ^= 1
        saved.write_bytes(data)
        self.refuse(saved, "sha256")

    def test_no_hash_in_the_card(self, saved):
        rewrite(saved, change_card=lambda card: {**card, "sha256": ""})
        self.refuse(saved, "their card says nothing")

    def test_wrong_shape(self, saved):
        rewrite(saved, lambda tensors: {**tensors, "mean.leave.bias": torch.zeros(5).half()})
        self.refuse(saved, r"mean.leave.bias is \(5,\), the network wants \(4,\)")

    def test_shape_of_another_card(self, saved):
        rewrite(saved, change_card=lambda card: {**card, "network": {**card["network"], "width": 12}})
        self.refuse(saved, "the network wants")

    def test_missing_tensor(self, saved):
        rewrite(saved, lambda tensors: {k: t for k, t in tensors.items() if k != "sampler.down.weight"})
        self.refuse(saved, "lacks tensor sampler.down.weight")

    def test_missing_network(self, saved):
        rewrite(saved, lambda tensors: {k: t for k, t in tensors.items() if not k.startswith("variance.")})
        self.refuse(saved, "lacks tensor variance.* and .* more")

    def test_unknown_tensor(self, saved):
        rewrite(saved, lambda tensors: {**tensors, "critic.weight": torch.zeros(2).half()})
        self.refuse(saved, "unknown tensor critic.weight")

    def test_sampler_that_the_card_does_not_know(self, saved):
        rewrite(saved, change_card=lambda card: {**card, "has_sampler": False})
        self.refuse(saved, "unknown tensor sampler")

    def test_other_number_format(self, saved):
        rewrite(saved, lambda tensors: {**tensors, "mean.leave.bias": torch.zeros(4)})
        self.refuse(saved, "mean.leave.bias has type F32")

    @pytest.mark.parametrize("kept", [0.3, 0.9, 0.9999])
    def test_truncated(self, saved, kept):
        data = saved.read_bytes()
        saved.write_bytes(data[: int(kept * len(data))])
        self.refuse(saved, "truncated or damaged|not a safetensors file")

    def test_trailing_bytes(self, saved):
        saved.write_bytes(saved.read_bytes() + b"\0" * 16)
        self.refuse(saved, "truncated or damaged")

    @pytest.mark.parametrize("offsets", [[0, 2], [-8, 0], [0, 1 << 62], "all", None])
    def test_forged_offsets(self, saved, offsets):
        data = saved.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        header["mean.leave.bias"]["data_offsets"] = offsets
        text = json.dumps(header).encode()
        saved.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
        self.refuse(saved, "truncated or damaged")

    @pytest.mark.parametrize("entry", [3, {}, {"shape": "4"}, {"shape": [4.0]}, {"shape": [True]}])
    def test_forged_table(self, saved, entry):
        data = saved.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        header["mean.leave.bias"] = entry
        text = json.dumps(header).encode()
        saved.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
        self.refuse(saved, "no shape for mean.leave.bias")

    def test_pickle(self, tmp_path):
        path = tmp_path / "model.safetensors"
        torch.save(random_tensors(), path)
        self.refuse(path, "never unpickles")
        path.write_bytes(pickle.dumps({"mean": 1}))
        self.refuse(path, "never unpickles")
        torch.save(random_tensors(), tmp_path / "model.pth")
        self.refuse(tmp_path / "model.pth", "never unpickles")

    def test_oversized_header(self, saved):
        saved.write_bytes(struct.pack("<Q", 1 << 40) + saved.read_bytes()[8:])
        self.refuse(saved, "header would be")

    def test_bad_json(self, saved):
        data = bytearray(saved.read_bytes())
        data[8:20] = b"{{{{{{{{{{{{"
        saved.write_bytes(data)
        self.refuse(saved, "not JSON")

    def test_plain_safetensors(self, tmp_path):
        save_file({"w": torch.zeros(2)}, tmp_path / "m.safetensors")
        self.refuse(tmp_path / "m.safetensors", "no medsr model card")

    def test_the_largest_network_a_card_can_ask_for_costs_no_memory(self, saved):
        """A forged card meets the table of tensors before a single weight is allocated."""
        largest = {"width": 1024, "blocks_top": 256, "blocks_bottom": 256, "embedding": 4096}
        rewrite(saved, change_card=lambda card: {**card, "network": largest})
        self.refuse(saved, "lacks tensor")


class TestSave:
    def test_tensors_of_another_network_are_refused(self, tmp_path):
        path = tmp_path / "m.safetensors"
        tensors = random_tensors()
        with pytest.raises(ModelError, match=r"unknown tensor mean\.extra"):
            save_model(path, CARD, {**tensors, "mean.extra": torch.zeros(1)})
        del tensors["mean.enter.weight"]
        with pytest.raises(ModelError, match=r"lacks tensor mean\.enter\.weight"):
            save_model(path, CARD, tensors)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
    def test_values_that_float16_cannot_hold(self, tmp_path, value):
        tensors = random_tensors()
        tensors["variance.first.bias"][2] = value
        with pytest.raises(ModelError, match=r"variance\.first\.bias holds values"):
            save_model(tmp_path / "m.safetensors", CARD, tensors)
        assert list(tmp_path.iterdir()) == []

    def test_an_older_file_is_replaced_whole_and_nothing_else_is_left(self, saved):
        save_model(saved, CARD, random_tensors(seed=1))
        assert [p.name for p in saved.parent.iterdir()] == ["tiny.safetensors"]
        expected = random_tensors(seed=1)["mean.leave.bias"]
        assert torch.equal(load_model(saved).mean.leave.bias, expected)

    @pytest.mark.skipif(resource is None, reason="no file size limit on this system")
    def test_a_failed_write_leaves_the_older_file(self, saved):
        """The system refuses to write past 20 kB, in the middle of the file."""
        before = saved.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            with pytest.raises(JobError, match=r"tiny\.safetensors"):
                save_model(saved, CARD, random_tensors(seed=1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert len(before) > 20_000
        assert saved.read_bytes() == before
        assert [p.name for p in saved.parent.iterdir()] == ["tiny.safetensors"]

    def test_a_folder_that_does_not_exist(self, tmp_path):
        with pytest.raises(JobError):
            save_model(tmp_path / "none" / "m.safetensors", CARD, random_tensors())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_an_absent_device_is_no_silent_cpu(saved):
    with pytest.raises(DeviceError):
        load_model(saved, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_weights_are_on_the_device(saved):
    model = load_model(saved, device="cuda")
    assert all(p.is_cuda for p in model.sampler.parameters())
