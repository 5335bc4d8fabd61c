"""The contract of models."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from trainables.errors import TrainableError
from trainables.models import MODELS, check_model, pool_sizes
from trainables.models.base import Backbone, Encoded
from trainables.models.batch_norm import use_float32_batch_norm
from trainables.spec import BACKBONE, HEAD, ModelSpec
from trainables.testing.inputs import random_batch
from trainables.training.start import extended_backbone, init_backbone, model_module


def check_model_contract(name: str, size: str) -> None:
    """Check the model `name` of `MODELS` at one of its sizes, which should be small.

    The entry's pools, groups, inputs and extended embedding tables are those of the network. The
    same seed gives the same weights. An evaluation is deterministic, draws no random numbers, and
    has the documented shapes. The state dict is complete: it moves to another network and into a
    file and back. The network also computes in bfloat16.
    """
    spec = ModelSpec(architecture=name, size=size)
    check_model(spec)
    backbone = init_backbone(spec, 0, 0.0)
    assert backbone.architecture == name, f"`architecture` is {backbone.architecture!r}"
    modality = MODELS[name].modality
    assert backbone.modality == modality, f"the entry says {modality}, not {backbone.modality}"
    assert bool(backbone.max_text) == bool(MODELS[name].tokenizer), (
        "a model that reads texts has a `tokenizer` in its entry and `max_text` in its network"
    )
    _check_pools(spec, backbone)
    _check_groups(spec, backbone)
    _check_seeds(spec, backbone)
    encoded = _evaluate(backbone)
    _check_shapes(backbone, encoded)
    _check_state(spec, backbone, encoded)
    _check_file(spec, backbone)
    _check_bfloat16(spec)
    _check_settings(spec)
    _check_extensions(spec, backbone)


def _check_pools(spec: ModelSpec, backbone: Backbone) -> None:
    entry = MODELS[spec.architecture]
    sizes = pool_sizes(spec)
    assert sizes, "the model has no pool of weights that can be pruned"
    assert entry.pool in sizes, f"default pool {entry.pool!r} is not a pool"
    weights = dict(backbone.named_parameters())
    for pool, size in sizes.items():
        names = backbone.prunable(pool)
        assert len(set(names)) == len(names), f"pool {pool!r}: a weight occurs twice"
        missing = [name for name in names if name not in weights]
        assert not missing, f"pool {pool!r}: {missing} are no parameters of the network"
        count = sum(weights[name].numel() for name in names)
        assert count == size, f"pool {pool!r}: the entry says {size} weights, there are {count}"
    try:
        backbone.prunable("no such pool")
    except TrainableError:
        return
    raise AssertionError("`prunable` accepts an unknown pool")


def _check_groups(spec: ModelSpec, backbone: Backbone) -> None:
    names = [BACKBONE + name for name, _ in backbone.named_parameters()]
    for group, prefixes in MODELS[spec.architecture].groups.items():
        for prefix in prefixes:  # the head is the task's
            assert prefix.startswith(HEAD) or any(name.startswith(prefix) for name in names), (
                f"group {group!r}: no parameter's name begins with {prefix!r}, only with such as"
                f" {names[0]!r}"
            )


def _check_seeds(spec: ModelSpec, backbone: Backbone) -> None:
    first, again, other = (init_backbone(spec, seed, 0.0).state_dict() for seed in (0, 0, 1))
    assert first.keys() == backbone.state_dict().keys()
    assert all(torch.equal(first[name], again[name]) for name in first), (
        "one seed gives two networks: draw all weights from torch's current generator"
    )
    assert not all(torch.equal(first[name], other[name]) for name in first), (
        "two seeds give one network: draw the weights from torch's current generator"
    )


def _evaluate(backbone: Backbone) -> Encoded:
    """Return the output in evaluation, which must be the same in each call."""
    backbone.eval()
    batch = random_batch(backbone)
    before = torch.random.get_rng_state()
    with torch.no_grad():
        encoded, again = backbone(batch), backbone(batch)
    assert torch.equal(torch.random.get_rng_state(), before), "an evaluation draws random numbers"
    assert all(map(torch.equal, encoded, again)), "two evaluations of one batch differ"
    assert all(bool(part.isfinite().all()) for part in encoded), "an output is not finite"
    result: Encoded = encoded
    return result


def _check_shapes(backbone: Backbone, encoded: Encoded) -> None:
    batch = random_batch(backbone)
    hidden = backbone.hidden_size
    size = len(next(iter(batch.values())))
    tokens = batch["input_ids"].shape[1] if "input_ids" in batch else 0
    assert encoded.pooled.shape == (size, hidden), f"pooled: {tuple(encoded.pooled.shape)}"
    assert encoded.text.shape == (size, tokens, hidden), f"text: {tuple(encoded.text.shape)}"
    assert encoded.image.ndim == 3, f"image: {tuple(encoded.image.shape)}"
    assert encoded.image.shape[::2] == (size, hidden), f"image: {tuple(encoded.image.shape)}"


def _check_state(spec: ModelSpec, backbone: Backbone, encoded: Encoded) -> None:
    other = init_backbone(spec, 1, 0.0)
    other.load_state_dict(backbone.state_dict())
    assert all(map(torch.equal, _evaluate(other), encoded)), (
        "a network with the same state dict computes something else: register what it lacks as"
        " parameters or persistent buffers"
    )


def _check_file(spec: ModelSpec, backbone: Backbone) -> None:
    state = backbone.state_dict()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file({name: value.contiguous() for name, value in state.items()}, path)
        loaded = model_module(spec).load(path, spec)
    assert loaded.backbone.keys() == state.keys(), "`load` does not return the whole state dict"
    assert all(torch.equal(loaded.backbone[name], state[name]) for name in state), (
        "`load` returns other weights than the file's"
    )


def _check_bfloat16(spec: ModelSpec) -> None:
    backbone = init_backbone(spec, 0, 0.0).train()
    use_float32_batch_norm(backbone)  # as the engine does
    for weight in backbone.parameters():  # as DeepSpeed does; buffers stay as they are
        weight.data = weight.data.to(torch.bfloat16)
    encoded = backbone(random_batch(backbone))
    assert all(bool(part.isfinite().all()) for part in encoded), "not finite in bfloat16"
    encoded.pooled.float().square().mean().backward()


def _check_settings(spec: ModelSpec) -> None:
    unknown = ModelSpec(
        architecture=spec.architecture, size=spec.size, overrides=(("no_such_setting", 1),)
    )
    try:
        check_model(unknown)
    except TrainableError:
        return
    raise AssertionError("an unknown setting is accepted")


def _check_extensions(spec: ModelSpec, backbone: Backbone) -> None:
    rows = {name: len(weight) for name, weight in backbone.named_parameters()}
    for task, extensions in MODELS[spec.architecture].embedding_extensions.items():
        weights = dict(extended_backbone(spec, extensions, 0.0).named_parameters())
        for each in extensions:
            assert each.weight in rows, f"task {task}: no weight {each.weight!r} to extend"
            added = len(weights[each.weight]) - rows[each.weight]
            assert added == each.extra_rows, (
                f"task {task}: {each.setting} adds {added} rows to {each.weight}, not"
                f" {each.extra_rows}"
            )
