"""What training an LLM stage needs, computed from shapes alone, without training it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from recbole_hellm.models.llm.attention import AttentionContext
from recbole_hellm.models.llm.backbone import Backbone, build_backbone
from recbole_hellm.models.llm.hellm import HeLLMNetwork
from recbole_hellm.models.llm.item_texts import ItemTexts
from recbole_hellm.models.llm.prefix import BoundPrefix
from recbole_hellm.models.llm.settings import LLMSettings

QUANTISED = {"load_in_4bit": 0.53, "load_in_8bit": 1.0}
"""Bytes of a weight in bitsandbytes' formats, block scales included."""


@dataclasses.dataclass(frozen=True)
class Requirements:
    """Needs of one training step and of one pass, in bytes and operations.

    Attributes
    ----------
    parameters, trained : int
        All numbers in the network, and those that are trained.
    weights, optimiser, activations : int
        Bytes of the weights; of gradients, AdamW's two moments and averages; and of what the
        forward pass of one micro-batch keeps for the backward pass.
    forward, training : int
        Operations of the matrix products of one micro-batch in the forward pass, and in the
        forward and backward pass together.
    """

    parameters: int
    trained: int
    weights: int
    optimiser: int
    activations: int
    forward: int
    training: int

    @property
    def memory(self) -> int:
        """Bytes of all of these together, temporary buffers not counted."""
        return self.weights + self.optimiser + self.activations


def outline(
    settings: LLMSettings,
    n_items: int,
    widths: Mapping[str, int],
    device: torch.device,
    read_texts: Callable[[Backbone], ItemTexts | None] = lambda _: None,
    n_users: int | None = None,
) -> HeLLMNetwork:
    """A network on the meta device; of a pre-trained backbone only the configuration is read.

    Parameters
    ----------
    settings : LLMSettings
        See there.
    n_items : int
        N.
    widths : Mapping of str to int
        Width of each item table, by name.
    device : torch.device
        Where the network is to run, which decides the type of pre-trained weights.
    read_texts : callable
        Gives the titles in words of the backbone.
    n_users : int, optional
        M.

    Raises
    ------
    BackboneError
        If the backbone's configuration cannot be had.
    """
    settings = settings.resolved().replace(compile=False)
    with torch.device("meta"):
        backbone = build_backbone(settings, device, outline=True)
        with torch.device("cpu"):  # the numbers of words are needed
            texts = read_texts(backbone)
        tables = {name: torch.zeros(n_items + 1, width) for name, width in widths.items()}
        return HeLLMNetwork(
            settings,
            tables,
            n_items=n_items,
            backbone=backbone,
            texts=texts,
            n_users=n_users,
            item_counts=torch.zeros(n_items + 1),
        )


def requirements(
    network: HeLLMNetwork,
    rows: int,
    columns: int,
    targets: int,
    device: torch.device,
    averages: int = 0,
) -> Requirements:
    """Needs of training on one micro-batch.

    PyTorch counts, on tensors without content, what the passes keep and multiply. This works for
    any family of backbones, with or without checkpointing.

    Parameters
    ----------
    network : HeLLMNetwork
        An :func:`outline`; it cannot be used for anything else afterwards.
    rows, columns, targets : int
        Rows of the micro-batch, tokens in each, and targets in all of them.
    device : torch.device
        Where the network is to run.
    averages : int
        Copies of the trained weights that averaging keeps.
    """
    settings = network.settings
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    trained = sum(size for size, requires_grad in sizes if requires_grad)
    weights = _weight_bytes(network, settings)
    activations, forward, training = _passes(network.train(), rows, columns, targets, device)
    return Requirements(
        parameters=sum(size for size, _ in sizes),
        trained=trained,
        weights=weights,
        optimiser=(3 + averages) * 4 * trained,
        activations=activations,
        forward=forward,
        training=training,
    )


def _weight_bytes(network: HeLLMNetwork, settings: LLMSettings) -> int:
    packed = next((size for key, size in QUANTISED.items() if getattr(settings, key)), None)
    total = 0.0
    for name, weight in network.named_parameters():
        inside = packed is not None and ".layers." in name and weight.ndim == 2
        frozen = inside and not weight.requires_grad
        total += weight.numel() * (packed if frozen and packed else weight.element_size())
    return int(total)


def _passes(
    network: HeLLMNetwork, rows: int, columns: int, targets: int, device: torch.device
) -> tuple[int, int, int]:
    """Bytes kept for the backward pass; operations of the forward pass, and of both passes."""
    settings = network.settings
    sizes: dict[int, int] = {}
    single = settings.targets == "last" and not settings.multi_target
    last_layer = network.last_layer if single else None

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in parameters:
            sizes[storage._cdata] = storage.nbytes()
        return value

    with FakeTensorMode(allow_non_fake_inputs=True):
        _move(network, device)
        parameters = {p.untyped_storage()._cdata for p in network.parameters()}
        hidden = network.backbone.hidden_size
        inputs = torch.zeros(rows, columns, hidden, device=device, requires_grad=True)
        positions = torch.arange(columns, device=device).expand(rows, -1)
        visible = torch.ones(rows, columns, columns, dtype=torch.bool, device=device).tril()
        with FlopCounterMode(display=False) as counter:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
                prefix = _prefix(network, rows, visible)
                shared = None if single else network._instruction()
                context = AttentionContext(prefix, shared, last_layer=last_layer)
                states = network._run(inputs, visible, positions, context)
                read = states[:, -1] if single else states.flatten(0, 1)[:targets]
                target = torch.ones(len(read), dtype=torch.long, device=device)
                first = (torch.arange(len(read), device=device), torch.zeros_like(target))
                read = network._beside(read, target.unsqueeze(1), first)
                loss = network._cross_entropy(read, target, network._table())
            forward = counter.get_total_flops()
            loss.backward()  # type: ignore[no-untyped-call]
        return sum(sizes.values()), forward, counter.get_total_flops()


def _prefix(network: HeLLMNetwork, rows: int, visible: Tensor) -> BoundPrefix | None:
    if network.prefix is None:
        return None
    pooled: Tensor | None = None
    if network.pooling is not None:
        if network.settings.targets == "every":
            width = network.tokens.table("graph").embedding_dim
            items = torch.zeros(*visible.shape[:2], width, device=visible.device)
            return network.prefix.running(network.pooling, items, visible)
        pooled = torch.zeros(rows, 1, network.pooling.size, device=visible.device)
    bound: BoundPrefix = network.prefix(pooled)
    return bound


def _move(network: nn.Module, device: torch.device) -> None:
    """Put every parameter and buffer on a device, without content."""
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, value in tensors.items():
                if value is None:
                    continue
                empty = torch.empty(value.shape, dtype=value.dtype, device=device)
                trained = isinstance(value, nn.Parameter)
                tensors[name] = nn.Parameter(empty, value.requires_grad) if trained else empty  # type: ignore[assignment]
