"""Each way of patching a model, on its own."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from lib_addift.diffusion.memory import recomputing
from lib_addift.hosts import patching
from tests.support.fake_unet import CONTEXT, BasicTransformerBlock, UNetModel
from tests.support.models import fingerprint, latent_gradient

PATCHES = [
    patching.frozen, patching.without_inference_tensors, patching.staying_in_place, patching.safe_residual_sums,
    recomputing,
]  # fmt: skip


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return UNetModel()


def inference(module: nn.Module) -> nn.Module:
    """`module` with inference tensors, as Forge loads it."""
    with torch.inference_mode():
        for part in module.modules():
            for table in (part._parameters, part._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        copy = tensor.clone()
                        table[name] = nn.Parameter(copy, requires_grad=False) if table is part._parameters else copy
    return module


def objects(module: nn.Module) -> list[int]:
    return [id(tensor) for tensor in (*module.parameters(), *module.buffers())]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, torch.cuda.OutOfMemoryError, GeneratorExit])
@pytest.mark.parametrize("take", PATCHES)
@pytest.mark.parametrize("made", [inference, lambda unet: unet])
def test_whatever_happens_the_model_is_as_before(unet, take, made, error):
    made(unet)
    before, parts = fingerprint(unet), objects(unet)
    for _ in range(2):
        with pytest.raises(error), take(unet):
            raise error
        with take(unet):
            pass
        assert fingerprint(unet) == before
        assert objects(unet) == parts


def test_all_of_them_together_make_forges_unet_trainable(unet):
    with patching.safe_residual_sums(unet):
        expected = latent_gradient(unet)
    inference(unet)
    before = fingerprint(unet)
    with contextlib.ExitStack() as stack:
        for take in (patching.without_inference_tensors, patching.frozen, patching.safe_residual_sums, recomputing):
            stack.enter_context(take(unet))
        torch.testing.assert_close(latent_gradient(unet), expected)
    assert fingerprint(unet) == before


# frozen


def test_frozen_restores_mixed_flags_and_gradients():
    layer = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    layer[0].bias.requires_grad_(False)
    layer[1].weight.grad = torch.ones(2, 2)
    flags, grad = [p.requires_grad for p in layer.parameters()], layer[1].weight.grad
    with patching.frozen(layer):
        assert not any(p.requires_grad for p in layer.parameters())
        layer(torch.ones(1, 2, requires_grad=True)).sum().backward()
        assert layer[0].weight.grad is None
        layer[0].weight.grad = torch.ones(2, 2)
    assert [p.requires_grad for p in layer.parameters()] == flags
    assert layer[1].weight.grad is grad
    assert torch.equal(grad, torch.ones(2, 2))
    assert layer[0].weight.grad is None


# Inference tensors


def test_forges_tensors_cannot_be_trained_through_without_it(unet):
    inference(unet)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        latent_gradient(unet)


def test_inference_tensors_are_replaced_over_the_same_memory_and_come_back():
    layer = nn.BatchNorm2d(3)
    inference(layer)
    layer.add_module("plain", nn.Linear(2, 2))
    layer._parameters["missing"] = None
    before = {name: (tensor, tensor.data_ptr()) for name, tensor in layer.state_dict(keep_vars=True).items()}
    with torch.inference_mode(), patching.without_inference_tensors(layer):
        inside = layer.state_dict(keep_vars=True)
        assert not any(tensor.is_inference() for tensor in inside.values())
        for name, (tensor, address) in before.items():
            assert inside[name].data_ptr() == address
            assert isinstance(inside[name], nn.Parameter) == isinstance(tensor, nn.Parameter)
            assert (inside[name] is tensor) == name.startswith("plain")
    after = layer.state_dict(keep_vars=True)
    assert all(after[name] is tensor for name, (tensor, _) in before.items())


def test_views_and_other_layouts_keep_their_shape():
    layer = nn.Conv2d(2, 4, 3)
    with torch.inference_mode():
        storage = torch.arange(400.0)
        layer.weight = nn.Parameter(storage[7:79].view(4, 2, 3, 3).to(memory_format=torch.channels_last), False)
        layer.bias = nn.Parameter(storage[::10][3:7], False)
    weight, bias = layer.weight, layer.bias
    with patching.without_inference_tensors(layer):
        assert torch.equal(layer.weight, weight)
        assert torch.equal(layer.bias, bias)
        assert layer.weight.stride() == weight.stride()
    assert layer.bias is bias


def test_tensors_of_a_kind_of_their_own_are_left_alone():
    """Quantized weights are subclasses, and know more than their memory."""

    class Quantized(nn.Parameter):
        pass

    layer = nn.Linear(2, 2)
    with torch.inference_mode():
        layer._parameters["weight"] = Quantized(torch.ones(2, 2), requires_grad=False)
    weight = layer.weight
    with patching.without_inference_tensors(layer):
        assert layer.weight is weight


# Weights that stay


def test_a_backward_pass_finds_its_weights_though_the_module_has_moved():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).requires_grad_(False)
    x = torch.randn(5, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    parameters, moved = list(layer.parameters()), []
    with patching.staying_in_place(layer):
        loss = layer(x).square().sum()
    assert list(map(id, layer.parameters())) == list(map(id, parameters))
    for parameter in parameters:  # as Module.to does it
        moved.append(parameter.data)
        parameter.data = torch.full_like(parameter, torch.nan)
    (gradient,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(gradient, expected)
    for parameter, data in zip(parameters, moved, strict=True):
        parameter.data = data
    assert torch.equal(layer(x).square().sum(), loss)


def test_without_it_the_backward_pass_finds_what_is_there_now():
    norm = nn.LayerNorm(3).requires_grad_(False)
    x = torch.randn(5, 3, requires_grad=True)
    loss = norm(x).square().sum()
    norm.weight.data = torch.full_like(norm.weight, torch.nan)
    assert torch.autograd.grad(loss, x)[0].isnan().all()


# Attributes


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_attribute_is_replaced_for_a_while(error):
    owner = nn.Linear(2, 2)
    with patching.replaced(owner, "training", "something"):
        assert owner.training == "something"
    assert owner.training is True
    with pytest.raises(error), patching.replaced(owner, "training", None):
        raise error
    assert owner.training is True
    with pytest.raises(AttributeError), patching.replaced(owner, "missing", None):
        pass
    assert not hasattr(owner, "missing")


# x += n


def test_in_place_sums_break_backward_without_it(unet):
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        latent_gradient(unet)


def test_the_norms_read_copies_only_while_gradients_are_kept(unet):
    with torch.no_grad():
        expected = unet(torch.ones(1, 4, 8, 8), torch.tensor([5]), torch.ones(1, 5, CONTEXT))
    seen = []
    norm = unet.get_submodule("middle_block.1.transformer_blocks.0.norm1")
    with patching.safe_residual_sums(unet):
        norm.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        x = torch.ones(1, 4, 8)
        norm(x)
        assert seen[0] is not x
        with torch.no_grad():
            norm(x)
            again = unet(torch.ones(1, 4, 8, 8), torch.tensor([5]), torch.ones(1, 5, CONTEXT))
        assert seen[1] is x
        assert torch.equal(again, expected)


def test_a_transformer_block_without_the_norms_leaves_no_hook_behind(unet):
    block = unet.get_submodule("output_blocks.3.1.transformer_blocks.0")
    assert type(block) is BasicTransformerBlock
    del block.norm2
    before = fingerprint(unet)
    with pytest.raises(AttributeError), patching.safe_residual_sums(unet):
        pass
    assert fingerprint(unet) == before


def test_hooks_of_others_stay(unet):
    norm = unet.get_submodule("middle_block.1.transformer_blocks.0.norm1")
    with patching.safe_residual_sums(unet):
        handle = norm.register_forward_pre_hook(lambda _m, _args: None)
    assert list(norm._forward_pre_hooks) == [handle.id]


# fp32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_fp32_and_back_is_bit_exact_for_every_weight(dtype):
    layer = nn.Linear(256, 256).to(dtype)
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(256, 256)
    if dtype is not torch.float32:
        values = bits.view(dtype)
        layer.weight.data = torch.where(
            values.isnan(), torch.zeros_like(values), values
        )  # the weights of a file are numbers
    before, parts = fingerprint(layer), objects(layer)
    with pytest.raises(RuntimeError, match="broken"), patching.in_fp32(layer):
        assert layer.weight.dtype is torch.float32
        raise RuntimeError("broken")
    assert fingerprint(layer) == before
    assert objects(layer) == parts
