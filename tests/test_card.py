"""The header of a weights file, built here byte by byte: what is refused before torch is imported."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from medsr.card import ModelCard, NetworkSpec, list_models, model_path, read_card, read_header
from medsr.errors import ModelError

CARD = ModelCard(name="tiny", version="1", calibration={"MR": 1.1}, results={"val": [1, 2]})


def write(path: Path, header: bytes, body: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)
    return path


def with_card(path: Path, card: object) -> Path:
    return write(path, json.dumps({"__metadata__": {"medsr": card}}).encode())


class Trap:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


def test_a_card_survives_the_real_writer(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_file({"w": np.zeros((2, 3), np.float16)}, path, metadata={"medsr": CARD.to_json()})
    assert read_card(path) == CARD
    assert read_header(path)["w"]["shape"] == [2, 3]


@given(
    name=st.text(max_size=30),
    factor=st.floats(1, 6),
    context=st.integers(0, 4),
    scale=st.lists(st.floats(-5, 5), max_size=8),
)
def test_json_round_trip(name, factor, context, scale):
    card = ModelCard(name=name, version="2", max_factor=factor, context=context, residual_scale=tuple(scale))
    assert ModelCard.model_validate_json(card.to_json()) == card


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_pickle_is_named_as_one_and_not_loaded(tmp_path, protocol):
    path, proof = tmp_path / "model.safetensors", tmp_path / "proof"
    path.write_bytes(pickle.dumps(Trap(proof), protocol))
    with pytest.raises(ModelError, match="never unpickles"):
        read_card(path)
    assert not proof.exists()
    pickle.loads(path.read_bytes())
    assert proof.exists()  # the trap does work


def test_a_torch_checkpoint_is_refused_under_any_name(tmp_path):
    for name in ("model.safetensors", "model.ckpt", "model.pt", "model"):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Trap(tmp_path / "proof")))
        with pytest.raises(ModelError, match="never unpickles"):
            read_card(path)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("length", [1 << 30, (1 << 64) - 1, 5000])
def test_oversized_header(tmp_path, length):
    """Longer than the limit, than memory, than the file: refused by the number alone."""
    path = write(tmp_path / "m.safetensors", b"{}", b"\0" * 100, length)
    with pytest.raises(ModelError, match=f"header would be {length} bytes"):
        read_card(path)


def test_header_over_the_limit_in_a_file_that_has_it(tmp_path):
    path = write(tmp_path / "m.safetensors", b" " * (5 << 20))
    with pytest.raises(ModelError, match="header would be"):
        read_card(path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b"\xff\xfe{}",
        b"[" * 200_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
        b"\0" * 64,
    ],
    ids=["empty", "open", "quotes", "not utf-8", "deep", "long number", "zeros"],
)
def test_bad_json(tmp_path, text):
    with pytest.raises(ModelError, match="damaged header: not JSON"):
        read_card(write(tmp_path / "m.safetensors", text))


@pytest.mark.parametrize("text", [b"[]", b"3", b'"x"', b"null"])
def test_json_that_is_no_object(tmp_path, text):
    with pytest.raises(ModelError, match="not a JSON object"):
        read_card(write(tmp_path / "m.safetensors", text))


@pytest.mark.parametrize("size", range(8))
def test_a_few_bytes(tmp_path, size):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"\1" * size)
    with pytest.raises(ModelError, match=f"is {size} bytes"):
        read_card(path)


@pytest.mark.parametrize("metadata", [None, [], "medsr", {}, {"medsr": 3}, {"medsr": {"name": "x"}}])
def test_foreign_safetensors(tmp_path, metadata):
    header = {} if metadata is None else {"__metadata__": metadata}
    with pytest.raises(ModelError, match="no medsr model card"):
        read_card(write(tmp_path / "m.safetensors", json.dumps(header).encode()))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"format": "medsr-model/2"}, "format"),
        ({"name": None}, "name"),
        ({"colour": "red"}, "colour"),
        ({"modalities": ["MR", "XR"]}, "modalities"),
        ({"network": {"width": 10**9}}, "network.width"),
        ({"network": {"blocks_top": 10**9}}, "network.blocks_top"),
        ({"network": {"width": 0}}, "network.width"),
        ({"network": {"layers": 3}}, "network.layers"),
        ({"context": -1}, "context"),
        ({"has_sampler": "perhaps"}, "has_sampler"),
    ],
)
def test_a_card_of_another_kind(tmp_path, change, where):
    card = json.dumps({**json.loads(CARD.to_json()), **change})
    with pytest.raises(ModelError, match=f"card is not one of medsr-model/1 \\({where}"):
        read_card(with_card(tmp_path / "m.safetensors", card))


def test_a_card_that_is_no_json(tmp_path):
    with pytest.raises(ModelError, match="card is not one of"):
        read_card(with_card(tmp_path / "m.safetensors", "{nonsense"))


@pytest.mark.parametrize("name", ["no-such", "no-such.safetensors", "", "medsr-base\0", "../medsr-base", "a\nb"])
def test_no_such_model(name):
    with pytest.raises(ModelError) as caught:
        model_path(name)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 5


def test_a_folder_is_no_model(tmp_path):
    (tmp_path / "m.safetensors").mkdir()
    with pytest.raises(ModelError, match="does not exist"):
        read_card(tmp_path / "m.safetensors")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = with_card(tmp_path / "m.safetensors", CARD.to_json())
    path.chmod(0)
    with pytest.raises(ModelError, match="cannot be read"):
        read_card(path)


def test_a_link_to_a_model_is_followed(tmp_path):
    with_card(tmp_path / "m.safetensors", CARD.to_json())
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "m.safetensors")
    assert read_card(tmp_path / "link.safetensors") == CARD


def test_every_packaged_model_has_a_readable_card():
    for name in list_models():
        card = read_card(name)
        assert len(card.sha256) == 64
        assert model_path(name).stat().st_size <= 15 << 20


def test_network_of_the_default_card_is_within_its_bounds():
    assert NetworkSpec.model_validate(NetworkSpec().model_dump()) == NetworkSpec()


def test_a_card_is_read_without_torch(tmp_path):
    path = with_card(tmp_path / "m.safetensors", CARD.to_json())
    code = (
        "import sys; from medsr.card import read_card; read_card(sys.argv[1]);"
        "print([m for m in ('torch', 'monai', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
