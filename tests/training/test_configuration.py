"""Settings: types, values, what is chosen, and the recipes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from segweave import InputError, create_model
from segweave.training.configuration import RunConfiguration, configure, read_settings, resolve
from segweave.training.steps import poly_schedule

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))


def label(recipe: Path) -> str:
    return f"{recipe.parent.name}/{recipe.stem}"


def one_for_each_network() -> list[Path]:
    """The first of the recipes that train the same network with the same options."""
    first: dict[str, Path] = {}
    for path in RECIPES:
        recipe = yaml.safe_load(path.read_text())
        first.setdefault(f"{recipe['model']} {sorted(recipe.get('options', {}).items())}", path)
    return list(first.values())


@pytest.mark.parametrize("recipe", RECIPES, ids=label)
def test_every_recipe_is_read(recipe: Path) -> None:
    settings = read_settings(recipe)
    configuration = configure({**settings, "data": "shapes"})
    for name, value in settings.items():
        written = getattr(configuration, name)
        assert (list(written) if isinstance(written, tuple) else written) == value


@pytest.mark.parametrize("recipe", one_for_each_network(), ids=label)
def test_the_network_of_every_recipe_can_be_made(recipe: Path) -> None:
    """At its full width, on the meta device, where tensors have a shape and no numbers."""
    configuration = configure({**read_settings(recipe), "data": "shapes"})
    with torch.device("meta"):
        network = create_model(configuration.model, num_classes=3, backbone="test_resnet", **configuration.options)
    assert all(parameter.is_meta for parameter in network.parameters())


def test_pan_recipes_are_the_paper_s() -> None:
    for name, crop_size in (("voc2012", (512, 512)), ("cityscapes", (768, 768))):
        recipe = next(path for path in RECIPES if path.parent.name == "pan" and path.stem == name)
        configuration = configure({**read_settings(recipe), "data": "shapes"})
        assert configuration.crop_size == crop_size
        assert configuration.backbone == "resnet101s"
        assert configuration.options == {"output_stride": 16}
        assert (configuration.learning_rate, configuration.power, configuration.momentum) == (4e-3, 0.9, 0.9)
        assert (configuration.weight_decay, configuration.batch_size) == (1e-4, 16)
        assert (configuration.scale_range, configuration.flip_probability) == ((0.5, 2.0), 0.5)


@pytest.mark.parametrize(
    ("name", "learning_rate", "epochs"),
    [("pascal_context", 1e-3, 240), ("ade20k", 1e-3, 240), ("voc2012_aug", 5e-4, 120), ("voc2012_finetune", 5e-4, 120)],
)
def test_agln_recipes_are_the_paper_s(name: str, learning_rate: float, epochs: int) -> None:
    recipe = next(path for path in RECIPES if path.parent.name == "agln" and path.stem == name)
    configuration = configure({**read_settings(recipe), "data": "shapes"})
    assert (configuration.model, configuration.backbone) == ("agln", "resnet101s")
    assert configuration.options == {"dense": True, "descriptors": 128}
    assert (configuration.learning_rate, configuration.epochs) == (learning_rate, epochs)
    assert (configuration.power, configuration.momentum, configuration.weight_decay) == (0.9, 0.9, 1e-4)
    assert (configuration.batch_size, configuration.scale_range, configuration.flip_probability) == (16, (0.5, 2), 0.5)


MINUS = {"dense": False, "channel_resampling": False, "spatial_gating": False}
AGLN_TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    "table4_fpn": ("fpn", {}),
    "table4_gap_gem": ("agln", {**MINUS, "global_pooling": "average"}),
    "table4_gem_1": ("agln", {**MINUS, "descriptors": 1}),
    "table4_gem_64": ("agln", {**MINUS, "descriptors": 64}),
    "table4_gem_128": ("agln", {**MINUS, "descriptors": 128}),
    "table4_gem_256": ("agln", {**MINUS, "descriptors": 256}),
    "table5_cr": ("agln", {"dense": False, "spatial_gating": False}),
    "table5_sg": ("agln", {"dense": False, "channel_resampling": False}),
    "table5_cr_sg": ("agln", {"dense": False}),
    "table6_alpha_1": ("agln", {"dense": False, "learnable_alpha": False}),
    "table6_beta_1": ("agln", {"dense": False, "learnable_beta": False}),
    "table6_alpha_1_beta_1": ("agln", {"dense": False, "learnable_alpha": False, "learnable_beta": False}),
    "table7_dense": ("agln", {"dense": True}),
    "table8_fcn": ("fcn", {"output_stride": 8}),
    "table8_fpn": ("fpn", {}),
    "table8_lite": ("agln", {"lite": True}),
}


def test_every_row_of_agln_s_tables_is_a_recipe_with_its_own_settings() -> None:
    recipes = {path.stem: read_settings(path) for path in RECIPES if path.parent.name == "agln"}
    assert {name for name in recipes if name.startswith("table")} == set(AGLN_TABLES)
    shared = {name: value for name, value in recipes["pascal_context"].items() if name not in ROW_SETTINGS}
    for name, (model, options) in AGLN_TABLES.items():
        backbone = "resnet101s" if name.startswith("table8") else "resnet50s"  # Section IV-A
        expected = {"model": model, "backbone": backbone, "options": options, **shared}
        assert recipes[name] == expected, name


ROW_SETTINGS = ("model", "backbone", "options")


@pytest.mark.parametrize(
    ("name", "images", "crop_size", "mini_batches"),
    [("cityscapes", 2975, 769, 40_000), ("pascal_context", 4998, 520, 60_000), ("coco_stuff", 9000, 520, 60_000)],
)
def test_ranet_recipes_are_the_paper_s(name: str, images: int, crop_size: int, mini_batches: int) -> None:
    recipe = next(path for path in RECIPES if path.parent.name == "ranet" and path.stem == name)
    settings = read_settings(recipe)
    assert (settings["model"], settings["backbone"], settings["pretrained"]) == ("ranet", "resnet101s", True)
    assert settings["options"] == {"output_stride": 8, "representatives": 8}
    assert settings["crop_size"] == [crop_size, crop_size]
    steps_per_epoch = images // settings["batch_size"]
    assert abs(settings["epochs"] * steps_per_epoch - mini_batches) <= steps_per_epoch / 2
    assert (settings["batch_size"], settings["flip_probability"], settings["brightness"]) == (8, 0.5, 0.2)
    assert (settings["optimizer"], settings["learning_rate"], settings["power"]) == ("sgd", 1e-3, 1.0)


RANET_TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    "table1_spp": ("pspnet", {"auxiliary_weight": 0.4}),
    "table1_nonlocal": ("ocnet", {"auxiliary_weight": 0.4}),
    **{f"table1_{regions}": ("ranet", {"regions": regions}) for regions in ("boundaries", "semantics", "both")},
    **{f"table2_k{count}": ("ranet", {"representatives": count}) for count in (2, 4, 6, 8, 10, 12)},
    "section5_without_intra_region": ("ranet", {"intra_region": False}),
    "section5_without_inter_region": ("ranet", {"inter_region": False}),
}


def test_every_row_of_ranet_s_tables_is_a_recipe_with_its_own_settings() -> None:
    recipes = {path.stem: read_settings(path) for path in RECIPES if path.parent.name == "ranet"}
    assert set(recipes) == {*RANET_TABLES, "cityscapes", "pascal_context", "coco_stuff"}
    shared = {name: value for name, value in recipes["cityscapes"].items() if name not in ("model", "options")}
    for name, (model, options) in RANET_TABLES.items():
        assert recipes[name] == {"model": model, "options": {"output_stride": 8, **options}, **shared}, name


@pytest.mark.parametrize(
    ("name", "epochs", "crop_size", "learning_rate", "weight_decay"),
    [
        ("cityscapes", 120, 969, 0.01, 0.0005),
        ("lip", 50, 573, 0.01, 0.0005),
        ("voc2012", 80, 521, 0.01, 0.0005),
        ("ade20k", 120, 569, 0.02, 0.0001),
    ],
)
def test_fpt_recipes_are_the_paper_s(
    name: str, epochs: int, crop_size: int, learning_rate: float, weight_decay: float
) -> None:
    """Section 4.2."""
    (recipe,) = (path for path in RECIPES if path.parent.name == "fpt" and path.stem == name)
    configuration = configure({**read_settings(recipe), "data": "shapes"})
    assert (configuration.model, configuration.backbone) == ("fpt", "resnet101")
    assert configuration.pretrained
    assert configuration.freeze_backbone
    assert configuration.sync_batch_norm
    assert (configuration.epochs, configuration.crop_size) == (epochs, (crop_size, crop_size))
    assert (configuration.learning_rate, configuration.power) == (learning_rate, 0.9)
    assert (configuration.momentum, configuration.weight_decay) == (0.9, weight_decay)
    assert configuration.scale_range == (0.5, 2.0)
    assert configuration.flip_probability == 0.5
    assert configuration.short_edges == ((269, 369, 469, 569) if name == "ade20k" else None)


FPT_TABLES = {
    "table4_ufp": ("ufp", {}),
    "table4_st": ("fpt", {"grounding": "none", "rendering": False}),
    "table4_lgt": ("fpt", {"self_transformer": False, "rendering": False}),
    "table4_rt": ("fpt", {"self_transformer": False, "grounding": "none"}),
    "table4_lgt_st": ("fpt", {"rendering": False}),
    "table4_rt_st": ("fpt", {"grounding": "none"}),
    "table4_lgt_rt": ("fpt", {"self_transformer": False}),
    "table4_lgt_st_rt": ("fpt", {}),
    **{f"table5_{pyramid}_fpt": ("fpt", {"pyramid": pyramid}) for pyramid in ("ppm", "aspp", "ufp")},
    **{
        f"table5_{pyramid}_oc": ("ufp", {"pyramid": pyramid, "object_context": True})
        for pyramid in ("ppm", "aspp", "ufp")
    },
}


def test_every_row_of_fpt_s_tables_is_a_recipe_with_its_own_settings() -> None:
    recipes = {path.stem: read_settings(path) for path in RECIPES if path.parent.name == "fpt"}
    recipes = {name: recipe for name, recipe in recipes.items() if recipe["model"] in ("ufp", "fpt")}
    assert set(recipes) == {*FPT_TABLES, "cityscapes", "lip", "voc2012", "ade20k"}
    shared = {name: value for name, value in recipes["cityscapes"].items() if name not in ("model", "options")}
    for name, (model, options) in FPT_TABLES.items():
        expected = {"output_stride": 8, "pyramid": "ufp", **options}
        assert recipes[name] == {"model": model, "options": expected, **shared}, name


OBJECTS = {"neck": "fpt"}
WITHOUT = {"st": {"self_transformer": False}, "gt": {"grounding": "none"}, "rt": {"rendering": False}}
AUGMENTED = {"augmented_head": True}
NON_LOCAL, GLOBAL_CONTEXT = ({"backbone_attention": attention} for attention in ("non_local", "global_context"))
FPT_OBJECT_TABLES: dict[str, dict[str, Any]] = {
    "table1_bfp": {"neck": "bfp"},
    "table1_st": {**OBJECTS, **WITHOUT["gt"], **WITHOUT["rt"]},
    "table1_gt": {**OBJECTS, **WITHOUT["st"], **WITHOUT["rt"]},
    "table1_rt": {**OBJECTS, **WITHOUT["st"], **WITHOUT["gt"]},
    "table1_st_gt": {**OBJECTS, **WITHOUT["rt"]},
    "table1_st_rt": {**OBJECTS, **WITHOUT["gt"]},
    "table1_gt_rt": {**OBJECTS, **WITHOUT["st"]},
    "table1_st_gt_rt": OBJECTS,
    "table2_neither": {**OBJECTS, "keep_probability": 1.0},
    "table2_sbn": {**OBJECTS, "keep_probability": 1.0},
    "table2_dropblock": OBJECTS,
    "table2_both": OBJECTS,
    "table3_bfp": {"neck": "bfp"},
    "table3_bfp_nl": {"neck": "bfp", **NON_LOCAL},
    "table3_bfp_gc": {"neck": "bfp", **GLOBAL_CONTEXT},
    "table3_fpn": {"neck": "fpn"},
    "table3_bpa": {"neck": "bpa"},
    "table3_fpt": OBJECTS,
    "table3_fpt_nl": {**OBJECTS, **NON_LOCAL},
    "table3_fpt_gc": {**OBJECTS, **GLOBAL_CONTEXT},
    "table3_fpt_ah": {**OBJECTS, **AUGMENTED},
    "table3_fpt_mt": OBJECTS,
    "table3_fpn_all": {"neck": "fpn", **AUGMENTED},
    "table3_bpa_all": {"neck": "bpa", **AUGMENTED},
    "table3_fpt_all": {**OBJECTS, **AUGMENTED},
    "coco_instances": OBJECTS,
    "coco_detection": OBJECTS,
}


def test_every_row_of_fpt_s_object_tables_is_a_recipe_with_its_own_settings() -> None:
    """Section 4.1."""
    recipes = {path.stem: read_settings(path) for path in RECIPES if path.parent.name == "fpt"}
    recipes = {name: recipe for name, recipe in recipes.items() if recipe["model"] in ("mask_rcnn", "faster_rcnn")}
    assert set(recipes) == set(FPT_OBJECT_TABLES)
    for name, options in FPT_OBJECT_TABLES.items():
        recipe = configure({**recipes[name], "data": "shapes"})
        detection = name == "coco_detection"
        assert recipe.model == ("faster_rcnn" if detection else "mask_rcnn"), name
        shared = {"channels": 256, "head_channels": 1024, "rois_per_image": 512, "positive_share": 0.25}
        of_coco = {"anchor_sizes": [32, 64, 128, 256, 512], "detections_per_image": 100}  # whatever the data holds
        assert recipe.options == {**options, **shared, **of_coco}, name
        assert recipe.devices == (8 if name.startswith("table2") else 1), name
        assert recipe.backbone == ("resnet101" if name.startswith("table3") else "resnet50"), name
        assert recipe.milestones == ((0.8,) if detection else (0.75,)), name
        multi_scale = name.endswith(("_mt", "_all"))
        assert (recipe.short_edge, recipe.long_edge) == (800, 1400 if multi_scale else 1000), name
        assert recipe.short_edges == (tuple(range(400, 1401, 100)) if multi_scale else None), name
        assert recipe.sync_batch_norm == (name not in ("table2_neither", "table2_dropblock")), name
        assert recipe.pretrained, name
        new_blocks = name.endswith(("_nl", "_gc"))  # which a frozen backbone would never train
        assert (recipe.freeze_backbone, recipe.freeze_batch_norm) == (not new_blocks, new_blocks), name
        assert (recipe.batch_size, recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (8, 0.05, 0.9, 1e-4)
        images = 118_287  # in train2017
        steps = recipe.epochs * images / recipe.batch_size
        assert steps == pytest.approx(100_000 if detection else 160_000, rel=0.05), name


def test_settings_survive_yaml(tmp_path: Path) -> None:
    configuration = configure(
        {
            "data": "shapes",
            "crop_size": (64, 96),
            "options": {"kernel_sizes": [3, 3, 3]},
            "ema": 0.9,
            "freeze_backbone": True,
            "short_edges": (269, 369),
        }
    )
    (tmp_path / "config.yaml").write_text(configuration.to_yaml())
    assert configure(read_settings(tmp_path / "config.yaml")) == configuration


def test_config_yaml_of_older_runs_is_read() -> None:
    written = yaml.safe_load(RunConfiguration(data="shapes", short_edge=240).to_yaml())
    older = {name: value for name, value in written.items() if name not in ("freeze_backbone", "short_edges")}
    assert len(older) == len(written) - 2
    assert configure(older) == configure(written)
    assert not configure(older).freeze_backbone
    assert configure(older).training_short_edges == (240,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "data is missing"),
        ({"data": "shapes", "epoch": 3}, "unknown setting 'epoch': expected one of data, root"),
        ({"data": "shapes", "epochs": 0}, "epochs 0: expected 1 or more"),
        ({"data": "shapes", "epochs": "many"}, "epochs many: expected int"),
        ({"data": "shapes", "crop_size": [64]}, r"crop_size \[64\]: expected tuple with 2 elements"),
        ({"data": "shapes", "crop_size": [64, 16]}, r"crop_size \[64, 16\]: expected a height and a width from 32 up"),
        ({"data": "shapes", "optimizer": "lion"}, "optimizer lion: expected one of 'sgd', 'adamw'"),
        ({"data": "shapes", "model": "unet"}, "unknown model 'unet': expected one of fcn"),
        (
            {"data": "shapes", "options": {"width": 3}},
            "unknown option 'width' of model 'pan': expected one of output_stride",
        ),
        ({"data": "shapes", "learning_rate": 0}, "learning_rate 0.0: expected a number above 0"),
        ({"data": "shapes", "learning_rate": float("nan")}, "learning_rate nan: expected a number above 0"),
        ({"data": "shapes", "ema": 1.5}, "ema 1.5: expected a number from 0 to 1"),
        ({"data": "shapes", "scale_range": [2.0, 0.5]}, r"scale_range \[2.0, 0.5\]: expected two factors"),
        ({"data": "shapes", "short_edges": []}, r"short_edges \[\]: expected one or more lengths, each 32 or more"),
        ({"data": "shapes", "short_edges": [269, 0]}, r"short_edges \[269, 0\]: expected one or more lengths"),
        ({"data": "shapes", "short_edges": 269}, "short_edges 269: expected"),
        ({"data": "shapes", "short_edges": [269, "long"]}, "short_edges .*long"),
        ({"data": "shapes", "freeze_backbone": "perhaps"}, "freeze_backbone perhaps: expected"),
        ({"data": "shapes", "batch_size": 5, "devices": 2}, "batch_size 5: expected a multiple of devices"),
    ],
)
def test_unusable_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        configure(settings)


def test_unusable_files(tmp_path: Path) -> None:
    for text, message in (("a: [", "expected YAML"), ("- a", "expected a mapping")):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(InputError, match=rf"x\.yaml: {message}"):
            read_settings(tmp_path / "x.yaml")
    with pytest.raises(InputError, match=r"none\.yaml"):
        read_settings(tmp_path / "none.yaml")


def test_what_is_left_open_is_chosen() -> None:
    chosen = resolve(RunConfiguration(data="shapes", device="cpu"), images=400, image_size=(480, 960))
    assert None not in (chosen.backbone, chosen.epochs, chosen.batch_size, chosen.learning_rate, chosen.precision)
    assert chosen.short_edge == 240
    assert chosen.crop_size == (240, 320)
    assert chosen.epochs == 40  # 2,000 steps of 8 images
    assert chosen.validate_every == 2


def test_what_is_given_is_kept() -> None:
    given = RunConfiguration(data="shapes", device="cpu", epochs=3, crop_size=(64, 64), short_edge=0, learning_rate=1.0)
    chosen = resolve(given, images=10, image_size=(480, 960))
    assert (chosen.epochs, chosen.crop_size, chosen.short_edge, chosen.learning_rate) == (3, (64, 64), 0, 1.0)


def test_small_images_are_not_enlarged() -> None:
    chosen = resolve(RunConfiguration(data="shapes", device="cpu"), images=10, image_size=(128, 160))
    assert (chosen.short_edge, chosen.crop_size) == (0, (128, 160))


@pytest.mark.parametrize(
    ("short_edges", "middle"), [((96,), 96), ((269, 369, 469, 569), 469), ((80, 48, 64), 64), ((48, 80), 80)]
)
def test_the_middle_short_edge_is_evaluated(short_edges: tuple[int, ...], middle: int) -> None:
    given = RunConfiguration(data="shapes", device="cpu", short_edges=short_edges)
    chosen = resolve(given, images=10, image_size=(512, 512))
    assert (chosen.short_edge, chosen.short_edges) == (middle, short_edges)
    assert chosen.training_short_edges == short_edges
    assert chosen.crop_size == (min(middle, 320), min(middle, 320))


@pytest.mark.parametrize("short_edge", [0, 200])
def test_training_may_have_other_short_edges_than_evaluation(short_edge: int) -> None:
    given = RunConfiguration(data="shapes", device="cpu", short_edge=short_edge, short_edges=(64, 96, 128))
    chosen = resolve(given, images=10, image_size=(480, 960))
    assert chosen.short_edge == short_edge
    assert chosen.training_short_edges == (64, 96, 128)
    assert chosen.crop_size == (96, 192)  # what is trained on, not what is evaluated


def test_without_several_short_edges_training_has_that_of_evaluation() -> None:
    for short_edge, expected in ((0, None), (96, (96,)), (None, None)):
        assert RunConfiguration(data="shapes", short_edge=short_edge).training_short_edges == expected


def test_poly_schedule() -> None:
    factor = poly_schedule(100, 0.9)
    for step in (0, 1, 50, 99):
        assert factor(step) == pytest.approx((1 - step / 100) ** 0.9, abs=1e-12)
    assert factor(100) == 0
    warm = poly_schedule(100, 0.9, warmup_steps=4)
    assert warm(0) == pytest.approx(0.25)
    assert warm(1) == pytest.approx(0.5 * 0.99**0.9)
    assert warm(50) == factor(50)
