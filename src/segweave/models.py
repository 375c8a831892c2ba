"""Networks by name: which there are, and how one is made."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, overload

import torch
from pydantic import TypeAdapter

from segweave.docstrings import argument_texts
from segweave.errors import InputError
from segweave.nearest import known_and_nearest, nearest
from segweave.networks.agln import AGLN
from segweave.networks.backbones import Attention, Backbone
from segweave.networks.deeplabv3 import DeepLabV3
from segweave.networks.fcn import FCN
from segweave.networks.fpn import FPN
from segweave.networks.fpt import FPT
from segweave.networks.network import DetectionNetwork, Network, Options, SegmentationNetwork
from segweave.networks.ocnet import OCNet
from segweave.networks.pan import PAN
from segweave.networks.pspnet import PSPNet
from segweave.networks.ranet import RANet
from segweave.networks.rcnn import FasterRCNN, MaskRCNN
from segweave.networks.ufp import UFP
from segweave.typed_values import of_type

__all__ = [
    "NETWORKS",
    "ModelOption",
    "Network",
    "check_options",
    "create_model",
    "described_options",
    "list_models",
    "model_options",
]

NETWORKS: dict[str, type[Network]] = {
    "fcn": FCN,
    "fpn": FPN,
    "pspnet": PSPNet,
    "deeplabv3": DeepLabV3,
    "ocnet": OCNet,
    "ufp": UFP,
    "pan": PAN,
    "agln": AGLN,
    "ranet": RANet,
    "fpt": FPT,
    "faster_rcnn": FasterRCNN,
    "mask_rcnn": MaskRCNN,
}
"""The networks by name; a new one is a line here."""


def list_models(task: str | None = None) -> list[str]:
    """The names that `create_model` knows, of one task or of all.

    Args:
        task: "semantic" for classes of pixels, "detection" for boxes of objects, "instance" for their masks.

    Raises:
        InputError: The task is unknown.
    """
    known = list(dict.fromkeys(each for network_class in NETWORKS.values() for each in network_class.tasks))
    if task is not None and task not in known:
        raise InputError(f"task {task!r}: {known_and_nearest(task, known)}")
    return [name for name, network_class in NETWORKS.items() if task is None or task in network_class.tasks]


@overload
def create_model(
    name: Literal["fcn", "fpn", "pspnet", "deeplabv3", "ocnet", "ufp", "pan", "agln", "ranet", "fpt"],
    *,
    num_classes: int,
    backbone: str = ...,
    pretrained: bool = ...,
    **options: Any,
) -> SegmentationNetwork: ...
@overload
def create_model(
    name: Literal["faster_rcnn", "mask_rcnn"],
    *,
    num_classes: int,
    backbone: str = ...,
    pretrained: bool = ...,
    **options: Any,
) -> DetectionNetwork: ...
@overload
def create_model(
    name: str, *, num_classes: int, backbone: str = ..., pretrained: bool = ..., **options: Any
) -> Network: ...
def create_model(
    name: str, *, num_classes: int, backbone: str = "resnet50", pretrained: bool = False, **options: Any
) -> Network:
    """Makes a network, in training mode, its weights in the `channels_last` layout that convolutions are fastest in.

    Args:
        name: One of `list_models()`.
        num_classes: K, at least 1 and at most 255 (255 itself means "ignore" in a mask), without the background that
            detectors have beside.
        backbone: The name of a timm model (see `segweave.networks.backbones.Backbone`).
        pretrained: Whether the backbone starts from timm's weights, or from random ones.
        options: `output_stride` (the default is the paper's) and `backbone_attention` (see `Backbone`), and what the
            network's constructor takes, or its `build` if it has one (see its class).

    Raises:
        InputError: The name, an option or its value is unknown; the message names the known ones. Or the backbone can't
            be had.
    """
    network_class = NETWORKS.get(name)
    if network_class is None:
        raise InputError(f"unknown model {name!r}: {known_and_nearest(name, list(NETWORKS))}")
    most = network_class.most_classes
    if not isinstance(num_classes, int) or num_classes < 1 or (most is not None and num_classes > most):
        raise InputError(f"num_classes {num_classes!r}: expected {f'1 to {most}' if most else '1 or more'}")
    network_options = check_options(name, options) if options else {}
    output_stride = network_options.pop("output_stride", network_class.default_output_stride)
    attention = network_options.pop("backbone_attention", "none")
    source = Backbone(backbone, output_stride=output_stride, pretrained=pretrained, attention=attention)
    try:
        network = _maker(name)(backbone=source, num_classes=num_classes, **_arguments(name, network_options))
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        shown = ", ".join(f"{option}={value!r}" for option, value in network_options.items())
        raise InputError(f"model {name!r} can't be made with {shown}: {error}") from error
    if any(parameter.numel() == 0 for parameter in network.parameters()):
        shown = ", ".join(f"{option}={value!r}" for option, value in network_options.items())
        raise InputError(f"model {name!r} has layers without a channel with {shown}: expected widths of 1 or more")
    network.recipe = {"model": name, "num_classes": num_classes, "backbone": backbone, "options": options}
    return network.to(memory_format=torch.channels_last)


class ModelOption(NamedTuple):
    """An option of a model.

    Attributes:
        kind: Its type, as annotated.
        default: Its value if it isn't given.
        text: What it means.
    """

    kind: Any
    default: Any
    text: str


def described_options(name: str) -> dict[str, ModelOption]:
    """The options of a model, with what the docstrings of the parts that take them say of each."""
    of_backbone, of_model = argument_texts(Backbone), argument_texts(NETWORKS[name]) | argument_texts(_maker(name))
    options = {
        "output_stride": ModelOption(int, NETWORKS[name].default_output_stride, of_backbone["output_stride"]),
        "backbone_attention": ModelOption(Attention, "none", of_backbone["attention"]),
    }
    for parameter in _parameters(name):
        group = parameter.default
        if isinstance(group, Options):
            texts = argument_texts(type(group))
            options |= {
                own.name: ModelOption(own.type, getattr(group, own.name), texts.get(own.name, ""))
                for own in dataclasses.fields(group)
            }
        else:
            options[parameter.name] = ModelOption(parameter.annotation, group, of_model.get(parameter.name, ""))
    return options


def model_options(name: str) -> dict[str, Any]:
    """The options of a model and their defaults."""
    return {option: known.default for option, known in described_options(name).items()}


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Refuses options that the model doesn't have, and values that aren't of the kind its constructor names.

    Returns:
        The options, their values of just that kind.

    Raises:
        InputError: Names the option, and what is known instead.
    """
    known = described_options(name)
    checked: dict[str, Any] = {}
    for option, value in options.items():
        if option not in known:
            raise InputError(f"unknown option {option!r} of model {name!r}: {nearest(option, list(known))}")
        try:
            checked[option] = of_type(TypeAdapter(known[option].kind), value, option)
        except InputError as error:
            raise InputError(f"option of model {name!r}: {error}") from error
    return checked


def _arguments(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as arguments of what makes the network, those that go together in one.

    Raises:
        ValueError: Options that go together refuse a value.
    """
    arguments: dict[str, Any] = {}
    for parameter in _parameters(name):
        group = parameter.default
        if isinstance(group, Options):
            given = {own.name: options[own.name] for own in dataclasses.fields(group) if own.name in options}
            arguments[parameter.name] = dataclasses.replace(group, **given)
        elif parameter.name in options:
            arguments[parameter.name] = options[parameter.name]
    return arguments


def _maker(name: str) -> Callable[..., Network]:
    """What makes a network of a backbone, a number of classes and options: its class, or the `build` of one that takes
    finished parts."""
    network_class: Callable[..., Network] = NETWORKS[name]
    maker: Callable[..., Network] = getattr(network_class, "build", network_class)
    return maker


def _parameters(name: str) -> list[inspect.Parameter]:
    """The parameters of what makes a network, but for the backbone and the number of classes."""
    parameters = inspect.signature(_maker(name), eval_str=True).parameters.values()
    return [parameter for parameter in parameters if parameter.name not in ("backbone", "num_classes")]
