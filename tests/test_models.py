"""Networks by name."""

import inspect
from typing import Any

import pytest
import torch
from timm.layers import NonLocalAttn

import segweave
from segweave.errors import InputError
from segweave.models import (
    NETWORKS,
    check_options,
    create_model,
    list_models,
    model_options,
)
from segweave.networks.fpt import FeaturePyramidTransformer
from segweave.networks.fpt_transformers import (
    GroundingTransformer,
    LocalGroundingTransformer,
    RenderingTransformer,
)
from segweave.networks.network import DetectionNetwork, SegmentationNetwork


class TestListModels:
    def test_knows_the_baselines_and_pan(self) -> None:
        assert {"fcn", "fpn", "pspnet", "deeplabv3", "ocnet", "ufp", "pan", "agln", "ranet", "fpt"} <= set(
            list_models()
        )
        assert list_models("semantic") == [name for name in NETWORKS if "rcnn" not in name]

    def test_knows_detectors(self) -> None:
        assert list_models("detection") == ["faster_rcnn", "mask_rcnn"]
        assert list_models("instance") == ["mask_rcnn"]
        assert list_models() == [*list_models("semantic"), *list_models("detection")]

    def test_the_list_is_the_caller_s(self) -> None:
        list_models("instance").append("fcn")
        assert list_models("instance") == ["mask_rcnn"]

    def test_an_entry_is_all_that_a_network_needs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Mine(NETWORKS["fcn"]):  # type: ignore[misc]
            pass

        monkeypatch.setitem(NETWORKS, "mine", Mine)
        assert "mine" in list_models("semantic")
        assert type(create_model("mine", num_classes=3, backbone="test_resnet")) is Mine

    def test_unknown_task(self) -> None:
        with pytest.raises(InputError, match="task 'depth': expected one of semantic, detection, instance"):
            list_models("depth")  # type: ignore[arg-type]

    def test_is_public(self) -> None:
        assert segweave.list_models is list_models
        assert segweave.create_model is create_model


class TestCreateModel:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_makes_what_was_asked_for(self, name: str) -> None:
        network = create_model(name, num_classes=7, backbone="test_resnet")
        assert type(network) is NETWORKS[name]
        assert network.training
        assert network.num_classes == 7
        assert network.labelling is None
        assert network.backbone.name == "test_resnet"
        assert network.backbone.output_stride == NETWORKS[name].default_output_stride
        assert network.recipe == {"model": name, "num_classes": 7, "backbone": "test_resnet", "options": {}}

    @pytest.mark.parametrize(
        ("name", "output_stride"),
        [
            ("fcn", 8),
            ("fpn", 32),
            ("pspnet", 8),
            ("deeplabv3", 16),
            ("ocnet", 8),
            ("pan", 16),
            ("agln", 32),
            ("ranet", 8),
            ("ufp", 8),
            ("fpt", 8),
            ("faster_rcnn", 32),
            ("mask_rcnn", 32),
        ],
    )
    def test_output_stride_is_the_papers(self, name: str, output_stride: int) -> None:
        assert NETWORKS[name].default_output_stride == output_stride

    def test_passes_options_on_and_remembers_them(self) -> None:
        options = {"output_stride": 32, "decoder_channels": 16, "attention_channels": None}
        network = create_model("pan", num_classes=3, backbone="test_resnet", **options)
        assert network.backbone.output_stride == 32
        assert network.head.in_channels == 16
        assert network.recipe["options"] == options

    def test_weights_are_channels_last(self) -> None:
        weight = create_model("pan", num_classes=3, backbone="test_resnet", decoder_channels=16).fpa.down[0][0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last)

    def test_constructors_take_keywords_only(self) -> None:
        for name, network_class in NETWORKS.items():
            assert issubclass(
                network_class, SegmentationNetwork if name in list_models("semantic") else DetectionNetwork
            )
            kinds = {parameter.kind for parameter in inspect.signature(network_class).parameters.values()}
            assert kinds == {inspect.Parameter.KEYWORD_ONLY}

    def test_unknown_name(self) -> None:
        known = "fcn, fpn, pspnet, deeplabv3, ocnet, ufp, pan, agln, ranet, fpt, faster_rcnn, mask_rcnn"
        with pytest.raises(InputError, match=rf"unknown model 'pam': expected one of {known}; did you mean pan\?$"):
            create_model("pam", num_classes=3)

    @pytest.mark.parametrize("num_classes", [0, -1, 256])
    def test_class_counts_that_there_are_not(self, num_classes: int) -> None:
        with pytest.raises(InputError, match=f"num_classes {num_classes}: expected 1 to 255"):
            create_model("fcn", num_classes=num_classes, backbone="test_resnet")

    @pytest.mark.parametrize("num_classes", [1, 255])
    def test_class_counts_at_the_ends(self, num_classes: int) -> None:
        network = create_model("fcn", num_classes=num_classes, backbone="test_resnet").eval()
        assert network(torch.randn(1, 3, 32, 32)).shape == (1, num_classes, 32, 32)

    def test_refuses_options_before_it_makes_a_backbone(self) -> None:
        with pytest.raises(InputError, match="unknown option 'rates' of model 'fcn'"):
            create_model("fcn", num_classes=3, backbone="no such backbone", rates=(1, 2))

    def test_unknown_backbone(self) -> None:
        with pytest.raises(InputError, match="backbone 'resnet81' is not a model"):
            create_model("fcn", num_classes=3, backbone="resnet81")

    def test_pretrained_reaches_the_backbone(self) -> None:
        with pytest.raises(InputError, match="pretrained weights of 'resnet18' can't be loaded"):
            create_model("fcn", num_classes=3, backbone="resnet18", pretrained=True)


class TestOptions:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_defaults_are_allowed(self, name: str) -> None:
        options = model_options(name)
        assert options["output_stride"] == NETWORKS[name].default_output_stride
        assert options["backbone_attention"] == "none"
        assert not {"backbone", "num_classes"} & set(options)
        check_options(name, options)

    def test_of_pan(self) -> None:
        options = model_options("pan")
        assert options["kernel_sizes"] == (7, 5, 3)
        assert options["global_pooling"] == "add"

    def test_unknown_option_names_the_known(self) -> None:
        with pytest.raises(InputError, match="unknown option 'width' of model 'fcn': expected one of") as caught:
            check_options("fcn", {"width": 3})
        assert all(option in str(caught.value) for option in model_options("fcn"))

    def test_of_mask_rcnn(self) -> None:
        options = model_options("mask_rcnn")
        assert options == model_options("faster_rcnn")
        assert options["neck"] == "fpn"
        assert options["anchor_sizes"] == (32.0, 64.0, 128.0, 256.0, 512.0)
        assert (options["rois_per_image"], options["positive_share"]) == (512, 0.25)
        assert (options["drop_block_size"], options["keep_probability"]) == (5, 0.9)
        assert (options["self_parts"], options["grounding_parts"], options["grounding"]) == (2, 4, "global")

    def test_reach_a_detector(self) -> None:
        options = {"neck": "bpa", "channels": 8, "head_channels": 8, "anchor_sizes": [4, 8, 16, 32, 64.5]}
        network = create_model("faster_rcnn", num_classes=2, backbone="test_resnet", **options)
        assert network.neck.channels == 8
        assert network.rpn.anchor_generator.sizes[-1] == (64.5,)
        assert network.recipe["options"] == options

    @pytest.mark.parametrize(
        ("name", "options"),
        [("fpt", {"grounding": "global", "square_size": 3}), ("mask_rcnn", {"neck": "fpt", "rendering": False})],
        ids=["fpt", "mask_rcnn"],
    )
    def test_options_that_go_together_are_options_on_their_own(self, name: str, options: dict[str, Any]) -> None:
        assert options.keys() <= model_options(name).keys()
        network = create_model(name, num_classes=2, backbone="test_resnet", channels=8, head_channels=8, **options)
        assert network.recipe["options"] == {"channels": 8, "head_channels": 8, **options}
        (transformer,) = (part for part in network.modules() if isinstance(part, FeaturePyramidTransformer))
        kinds = {type(part) for part in transformer.modules()}
        assert (RenderingTransformer in kinds) == options.get("rendering", True)
        assert (GroundingTransformer in kinds, LocalGroundingTransformer in kinds) == (True, False)

    def test_groups_of_options_are_no_options(self) -> None:
        for group in ("transformer", "proposals", "heads"):
            with pytest.raises(InputError, match=f"unknown option '{group}' of model 'mask_rcnn'"):
                check_options("mask_rcnn", {group: 3})

    def test_attention_reaches_the_backbone(self) -> None:
        options = {"backbone_attention": "non_local", "head_channels": 8}
        network = create_model("fcn", num_classes=2, backbone="test_resnet", backbone_attention="non_local")
        assert any(isinstance(module, NonLocalAttn) for module in network.backbone.modules())
        with pytest.raises(InputError, match="backbone 'convnext_atto' takes no attention blocks"):
            create_model("mask_rcnn", num_classes=2, backbone="convnext_atto", **options)
        with pytest.raises(
            InputError, match="option of model 'fcn': backbone_attention dense: expected one of 'none', '"
        ):
            create_model("fcn", num_classes=2, backbone="test_resnet", backbone_attention="dense")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"neck": "pafpn"}, "option of model 'mask_rcnn': neck pafpn: expected one of 'bfp', 'fpn', 'bpa', 'fpt'"),
            ({"anchor_sizes": (8, 16)}, "2 anchor_sizes: expected one for each of 5 levels"),
            ({"anchor_sizes": (8, 16, 32, 64, -1)}, r"anchor_sizes .*: expected numbers above 0"),
            ({"aspect_ratios": ()}, r"aspect_ratios \[\]: expected numbers above 0"),
            ({"positive_share": 1.5}, "positive_share 1.5: expected one above 0, and 1 at most"),
            ({"rois_per_image": 0}, r"rois_per_image \[0\]: expected numbers above 0"),
            ({"training_proposals": (10, 0)}, r"training_proposals \[10, 0\]: expected numbers above 0"),
            ({"test_proposals": 10}, "option of model 'mask_rcnn': test_proposals 10: expected"),
            (
                {"neck": "fpn", "self_transformer": False},
                "model 'mask_rcnn' can't be made with .*: self_transformer False with neck 'fpn': it is FPT's, "
                "expected neck 'fpt'",
            ),
            ({"neck": "fpt", "self_parts": 3}, r"model 'mask_rcnn' can't be made with .*: 256 channels in 3 parts"),
            ({"width": 3}, "unknown option 'width' of model 'mask_rcnn': expected one of"),
        ],
        ids=str,
    )
    def test_of_detectors_that_cannot_be_used(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            create_model("mask_rcnn", num_classes=2, backbone="test_resnet", **{"head_channels": 8, **options})

    @pytest.mark.parametrize(
        ("option", "value", "expected"),
        [
            ("pooling", "mean", "'average', 'max'"),
            ("global_pooling", "sum", "'add', 'concat'"),
            ("attention", "se", "'pyramid', 'squeeze_excitation'"),
            ("low_level_kernel_size", 5, "1, 3"),
        ],
    )
    def test_values_outside_a_choice(self, option: str, value: Any, expected: str) -> None:
        with pytest.raises(InputError) as caught:
            check_options("pan", {option: value})
        assert str(caught.value) == f"option of model 'pan': {option} {value}: expected one of {expected}"

    @pytest.mark.parametrize(
        "options",
        [{"pooling": "max"}, {"global_pooling": None}, {"attention": None}, {"low_level_kernel_size": 1}, {}],
        ids=str,
    )
    def test_values_within_a_choice(self, options: dict[str, Any]) -> None:
        check_options("pan", options)

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("pan", {"kernel_sizes": (2, 4, 6)}),
            ("pspnet", {"bins": ()}),
            ("fcn", {"dropout": 2}),
        ],
        ids=str,
    )
    def test_values_that_make_no_network(self, name: str, options: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=f"model '{name}' can't be made with {next(iter(options))}="):
            create_model(name, num_classes=3, backbone="test_resnet", **options)

    @pytest.mark.parametrize(
        "options",
        [{"kernel_sizes": (7, 5)}, {"kernel_sizes": 3}, {"decoder_channels": "wide"}, {"global_context": "banana"}],
        ids=str,
    )
    def test_values_of_another_kind(self, options: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=rf"option of model 'pan': {next(iter(options))} .*: expected"):
            create_model("pan", num_classes=3, backbone="test_resnet", **options)

    def test_none_only_where_it_means_something(self) -> None:
        with pytest.raises(InputError, match="option of model 'pan': pooling None: expected one of 'average', 'max'"):
            create_model("pan", num_classes=3, backbone="test_resnet", pooling=None)
        create_model("pan", num_classes=3, backbone="test_resnet", global_pooling=None)
